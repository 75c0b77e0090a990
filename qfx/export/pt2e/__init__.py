"""Quantized models as programs of ``torch.export``, with the operators of quantized_decomposed."""
