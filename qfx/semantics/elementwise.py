"""Functions of each number, and what takes one of two by number."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _of_each(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def compute(input: Tensor) -> Tensor:
        return function(input)

    compute.__name__ = function.__name__
    return compute


exp, expm1, log, log1p = map(_of_each, (torch.exp, torch.expm1, torch.log, torch.log1p))
exp2, log2, log10 = map(_of_each, (torch.exp2, torch.log2, torch.log10))
sqrt, rsqrt, reciprocal = map(_of_each, (torch.sqrt, torch.rsqrt, torch.reciprocal))
sin, cos, tan = map(_of_each, (torch.sin, torch.cos, torch.tan))
asin, acos, atan = map(_of_each, (torch.asin, torch.acos, torch.atan))
sinh, cosh = map(_of_each, (torch.sinh, torch.cosh))
asinh, acosh, atanh = map(_of_each, (torch.asinh, torch.acosh, torch.atanh))
erf, erfc, erfinv = map(_of_each, (torch.erf, torch.erfc, torch.erfinv))
sinc, lgamma, digamma, i0 = map(_of_each, (torch.sinc, torch.lgamma, torch.digamma, torch.i0))
abs, neg, sign = map(_of_each, (torch.abs, torch.neg, torch.sign))
floor, ceil = map(_of_each, (torch.floor, torch.ceil))
trunc, frac = map(_of_each, (torch.trunc, torch.frac))


def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """``input`` to so many decimals; halves to even."""
    return torch.round(input, decimals=decimals) if decimals else torch.round(input)


def logit(input: Tensor, *, eps: float | None = None) -> Tensor:
    return torch.logit(input, eps)


def nan_to_num(
    input: Tensor, *, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """``input`` with numbers in place of what is none; the largest for infinity, if not told."""
    return torch.nan_to_num(input, nan, posinf, neginf)


def pow(input: Tensor | float, exponent: Tensor | float) -> Tensor:
    power: Tensor = input**exponent
    return power


def maximum(input: Tensor, other: Tensor) -> Tensor:
    return torch.maximum(input, other)


def minimum(input: Tensor, other: Tensor) -> Tensor:
    return torch.minimum(input, other)


def fmax(input: Tensor, other: Tensor) -> Tensor:
    """The larger; of a number and NaN the number."""
    return torch.fmax(input, other)


def fmin(input: Tensor, other: Tensor) -> Tensor:
    return torch.fmin(input, other)


def _of_two(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def compute(input: Tensor, other: Tensor) -> Tensor:
        return function(input, other)

    compute.__name__ = function.__name__
    return compute


atan2, hypot, copysign = map(_of_two, (torch.atan2, torch.hypot, torch.copysign))
logaddexp, logaddexp2 = map(_of_two, (torch.logaddexp, torch.logaddexp2))
fmod, remainder, xlogy = map(_of_two, (torch.fmod, torch.remainder, torch.xlogy))


def lerp(input: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """As far from ``input`` to ``end`` as ``weight`` says."""
    return torch.lerp(input, end, weight)


def where(condition: Tensor, input: Tensor | float, other: Tensor | float) -> Tensor:
    return torch.where(condition, input, other)


def masked_fill(input: Tensor, mask: Tensor, value: Tensor | float) -> Tensor:
    return input.masked_fill(mask, value)
