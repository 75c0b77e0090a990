"""Which operation of a model gets which QConfig."""
