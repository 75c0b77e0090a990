"""Capture: a model and example inputs become a graph that keeps what was written."""
