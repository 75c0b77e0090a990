"""Real models with real weights, and what quantizers leave of them."""
