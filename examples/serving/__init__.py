"""A server of a quantized model: one file is loaded, requests are answered in small batches."""
