"""Shapes of what quantizes and dequantizes."""

from __future__ import annotations

import torch

from qfx.graph.meta import TensorInfo, Value
from qfx.graph.shape_arithmetic import CODES, NUMBERS, Told, dim_of, fit


def quantized(
    input: TensorInfo,
    scale: object,
    zero_point: object,
    dtype: torch.dtype,
    axis: object,
    group_size: object,
    **bounds: object,
) -> Told:
    if not fit(input) or group_size is not None or not _step(input, axis, scale, zero_point):
        return None
    return TensorInfo(input.shape, dtype)


def dequantized(
    input: TensorInfo,
    scale: object,
    zero_point: object,
    dtype: torch.dtype,
    axis: object,
    group_size: object,
) -> Told:
    codes = isinstance(input, TensorInfo) and input.dtype in CODES and input.numel
    if not codes or group_size is not None or not _step(input, axis, scale, zero_point):
        return None
    return TensorInfo(input.shape, dtype)


def measured(input: TensorInfo, **_: object) -> Value:
    numbers = TensorInfo((), torch.float32), TensorInfo((), torch.int32)
    return numbers if fit(input) else None


def _step(input: TensorInfo, axis: object, *numbers: object) -> bool:
    """Whether there is one of each number, or one for each place along ``axis``."""
    at = dim_of(axis, len(input.shape))
    if at is None:
        plain = (type(n) in NUMBERS or (isinstance(n, TensorInfo) and not n.shape) for n in numbers)
        return axis is None and all(plain)
    return all(isinstance(n, TensorInfo) and n.shape == (input.shape[at],) for n in numbers)
