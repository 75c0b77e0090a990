"""Tensors that operators hardly take: of other layouts than strides, and floats of 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor


def dense(tensor: Tensor) -> Tensor:
    """``tensor`` with all of its elements laid out by strides."""
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


def computable(tensor: Tensor) -> Tensor:
    """``tensor``, dense; floats of 8 bits, which hardly any operator takes, as wider ones."""
    values = dense(tensor)
    narrow = values.is_floating_point() and values.dtype.itemsize == 1
    return values.float() if narrow else values


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
