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
sin, cos, erf = map(_of_each, (torch.sin, torch.cos, torch.erf))
abs, neg, sign = map(_of_each, (torch.abs, torch.neg, torch.sign))
floor, ceil = map(_of_each, (torch.floor, torch.ceil))


def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """``input`` to so many decimals; halves to even."""
    return torch.round(input, decimals=decimals) if decimals else torch.round(input)


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


def lerp(input: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """As far from ``input`` to ``end`` as ``weight`` says."""
    return torch.lerp(input, end, weight)


def where(condition: Tensor, input: Tensor | float, other: Tensor | float) -> Tensor:
    return torch.where(condition, input, other)


def masked_fill(input: Tensor, mask: Tensor, value: Tensor | float) -> Tensor:
    return input.masked_fill(mask, value)
