"""What is folded or fused into the operation beside it."""
