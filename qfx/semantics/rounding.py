"""The steps of affine arithmetic: codes before they are clamped, and what codes stand for."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

_N = TypeVar("_N", int, float)

_EXACT_IN_FLOAT32 = 2**24


def unclamped(
    input: Tensor, scale: Tensor | float, zero_point: Tensor | int, low: int, high: int
) -> Tensor:
    """Rounded, unclamped codes as floats, in a tensor of our own."""
    work = torch.float64 if input.dtype == torch.float64 else torch.float32
    if max(-low, high) > _EXACT_IN_FLOAT32:
        work = torch.float64
    input = input.to(work)
    if not isinstance(scale, Tensor) and not isinstance(zero_point, Tensor):
        zero = torch.full((), float(zero_point), dtype=work, device=input.device)
        return torch.add(zero, input, alpha=1.0 / scale).round_()
    inverse = _tensor(scale, input).reciprocal()
    zero = _tensor(zero_point, input)
    if inverse.dim() == 0:
        return torch.addcmul(zero, input, inverse).round_()
    return (input * inverse).add_(zero).round_()


def as_integers(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """Float codes as integers; on CPUs uint8 goes through int16, four times as fast."""
    if dtype == torch.uint8 and codes.device.type == "cpu":
        codes = codes.to(torch.int16)
    return codes.to(dtype)


def widened(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """Integer codes as floats that hold them exactly, in a tensor of our own."""
    wide = dtype == torch.float64 or codes.dtype == torch.int32
    return codes.to(torch.float64 if wide else torch.float32, copy=True)


def real_values(
    values: Tensor, scale: Tensor | float, zero_point: Tensor | int, dtype: torch.dtype
) -> Tensor:
    """What float codes stand for; ``values`` is overwritten."""
    if isinstance(zero_point, Tensor) or zero_point != 0:
        values = values.sub_(zero_point)
    return values.mul_(scale).to(dtype)


def _tensor(value: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def along(values: Tensor | _N, axis: int, like: Tensor) -> Tensor | _N:
    """Reshape per-channel values (C,) so that they broadcast along ``axis`` of ``like``."""
    if not isinstance(values, Tensor) or values.dim() == 0:
        return values
    shape = [1] * like.dim()
    shape[axis] = -1
    return values.reshape(shape)


def trailing(values: Tensor | _N) -> Tensor | _N:
    """(C, G) -> (C, G, 1), to broadcast over the values of a group."""
    return values.unsqueeze(-1) if isinstance(values, Tensor) else values
