"""What users hold and run: prepared and quantized models, and calibration."""
