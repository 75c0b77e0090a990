"""oneDNN's integer kernels on plain uint8/int8 tensors (``torch.ops.onednn.*``), for x86."""
