"""Passes, pipelines of them, and the manager that runs, verifies and records each."""
