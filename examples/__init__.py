"""Examples that run, and that tests run."""
