"""Arithmetic of shapes: what tensors must be for a rule to tell, and what they stretch to.

What does not fit is no error here: None, and whoever asks runs the operation itself.
"""

from __future__ import annotations

from math import prod
from typing import TypeAlias

import torch

from qfx.graph.meta import TensorInfo

Told: TypeAlias = "TensorInfo | None"
Dims: TypeAlias = tuple[int, ...]

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
NUMBERS = (int, float)
CODES = (torch.uint8, torch.int8, torch.int16, torch.int32)


def fit(*operands: object) -> bool:
    """Whether operands are float tensors of one dtype, none empty; None is one left out."""
    given = [operand for operand in operands if operand is not None]
    tensors = [operand for operand in given if isinstance(operand, TensorInfo) and operand.numel]
    dtypes = {tensor.dtype for tensor in tensors}
    return len(tensors) == len(given) and len(dtypes) == 1 and dtypes.issubset(_FLOATS)


def have(shape: Dims, *operands: TensorInfo | None) -> bool:
    """Whether all operands that are given have this shape."""
    return all(operand is None or operand.shape == shape for operand in operands)


def numbers(value: object, count: int, least: int) -> Dims | None:
    """``value``, one integer for all dims or one for each, if none is less than ``least``."""
    values = (value,) * count if isinstance(value, int) else value
    if not isinstance(values, (tuple, list)) or len(values) != count:
        return None
    is_plain = all(type(each) is int and each >= least for each in values)
    return tuple(values) if is_plain else None


def dim_of(dim: object, ndim: int) -> int | None:
    """``dim`` counted from the front, if there is such a dim."""
    return dim % ndim if type(dim) is int and -ndim <= dim < ndim else None


def broadcast(*shapes: Dims) -> Dims | None:
    """The shape that all of these stretch to, if there is one."""
    length = max(map(len, shapes))
    padded = [(1,) * (length - len(shape)) + shape for shape in shapes]
    sizes = [sorted({1, *each}) for each in zip(*padded, strict=True)]
    return tuple(each[-1] for each in sizes) if all(len(e) <= 2 for e in sizes) else None


def joined(*operands: TensorInfo | None) -> Told:
    """What arithmetic of tensors yields."""
    if None in operands or not fit(*operands):
        return None
    given = [operand for operand in operands if operand is not None]
    return like(given[0], broadcast(*(operand.shape for operand in given)))


def like(info: TensorInfo, shape: Dims | None) -> Told:
    """A tensor of that dtype, if there is one of that shape with something in it."""
    return TensorInfo(shape, info.dtype) if shape is not None and prod(shape) > 0 else None
