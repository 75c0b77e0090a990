"""How far a quantized model is from the float model, and which operation and pass make it so."""
