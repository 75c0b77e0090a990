"""Which values are quantized, observed and written out as quantize and dequantize."""
