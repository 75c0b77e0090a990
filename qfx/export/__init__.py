"""Quantized models in the formats of others, written from the reference graph."""
