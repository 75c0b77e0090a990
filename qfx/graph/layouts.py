"""Tensors of other layouts than strides: sparse ones, and those of MKL-DNN."""

from __future__ import annotations

import torch
from torch import Tensor


def dense(tensor: Tensor) -> Tensor:
    """``tensor`` with all of its elements laid out by strides."""
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


def are_equal(one: Tensor, other: Tensor) -> bool:
    """``torch.equal`` of tensors of any layout, which is the same."""
    return one.layout == other.layout and torch.equal(dense(one), dense(other))
