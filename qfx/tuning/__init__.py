"""The search for the smallest model that is good enough: sensitivity, trials, search."""
