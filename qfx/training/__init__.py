"""Quantization-aware training: the model that is trained, and when its ranges stop moving."""
