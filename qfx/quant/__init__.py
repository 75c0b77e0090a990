"""Specs, observers, fake-quants and annotations: how values are quantized, as data."""
