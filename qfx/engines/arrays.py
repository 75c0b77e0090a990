"""Tensors as arrays of NumPy over the same memory, which engines take."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def array_of(tensor: Tensor) -> Any:
    """The memory of a tensor as a contiguous array; of one that is not, a copy's."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    if not tensor.is_contiguous():
        tensor = tensor.contiguous()
    return tensor.numpy()
