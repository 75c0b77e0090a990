"""Saved models: one file, of which nothing is ever executed or imported (docs/format.md)."""
