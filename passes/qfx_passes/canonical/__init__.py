"""From what was captured to one form: every spelling of an operation becomes one call."""
