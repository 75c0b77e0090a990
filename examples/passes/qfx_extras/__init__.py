"""Passes on plain models: common subexpressions and constants, a memory plan, pipeline stages."""
