"""Passes of general use on plain models, as a package of their own; see the README beside it."""
