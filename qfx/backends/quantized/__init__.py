"""PyTorch's kernels on quantized dtypes (``torch.ops.quantized.*``), for fbgemm and qnnpack."""
