"""Tensors of other layouts than strides: sparse ones, and those of MKL-DNN."""

from __future__ import annotations

import torch
from torch import Tensor


def dense(tensor: Tensor) -> Tensor:
    """``tensor`` with all of its elements laid out by strides."""
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


def are_equal(one: Tensor, other: Tensor) -> bool:
    """``torch.equal`` of tensors of any layout, which is the same; NaN equals NaN."""
    if one.layout != other.layout:
        return False
    one, other = dense(one), dense(other)
    return torch.equal(one, other) or _equal_but_for_nan(one, other)


def _equal_but_for_nan(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or not (one.is_floating_point() or one.is_complex()):
        return False
    # Not isnan, which some dtypes of 8 bits lack.
    same = (one == other) | ((one != one) & (other != other))
    return bool(same.all())
