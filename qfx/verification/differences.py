"""How far a value is from what it should be: codes in steps, floats as a fraction of the largest.

A kernel that hands out codes promises the nearest one,

    |q - clamp(y / scale + zero_point)| <= 1/2 + tie

where ``tie`` allows for the last bits of ``y``, which decide between two codes that are equally
near. One that hands out floats promises ``|z - y| <= relative * max|y|``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qfx.graph.layouts import computable
from qfx.torch_private import make_per_tensor


@dataclass(frozen=True)
class Grid:
    """What the codes of one tensor stand for.

    Attributes:
        scale, zero_point: per tensor.
        low, high: bounds of the codes.
    """

    scale: float
    zero_point: int
    low: int
    high: int

    def place(self, exact: Tensor) -> Tensor:
        """Where floats lie between the codes, clamped to their bounds."""
        return (exact.float() / self.scale).add_(self.zero_point).clamp_(self.low, self.high)


def steps_off(codes: Tensor, exact: Tensor, grid: Grid) -> float:
    """By how many steps the worst of ``codes`` exceeds rounding ``exact``; inf for other shapes.

    What is NaN has no right code.
    """
    if codes.shape != exact.shape:
        return torch.inf
    if codes.numel() == 0:
        return 0.0
    error = grid.place(exact).sub_(plain(codes))
    worst = _largest(error)
    if math.isnan(worst):
        worst = _largest(error.nan_to_num_(nan=0.0))
    return max(0.0, worst - 0.5)


def are_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers, told at one glance; NaN is never the same."""
    kinds = (one.layout, one.dtype, one.is_quantized)
    if kinds != (torch.strided, other.dtype, False) or other.layout is not torch.strided:
        return False
    return torch.equal(one, other)


def fraction_off(actual: Tensor, exact: Tensor) -> float:
    """The largest error as a fraction of the largest finite magnitude; inf for other shapes.

    NaN agrees with NaN, and infinities with themselves.
    """
    if actual.shape != exact.shape or actual.layout != exact.layout:
        return torch.inf
    actual, exact = computable(actual), computable(exact)
    if actual.numel() == 0:
        return 0.0
    other = actual.detach().to(exact.dtype)
    worst, largest = _largest(other - exact), _largest(exact)
    if not worst < torch.inf:  # something is not finite
        same = (exact == other) | (exact.isnan() & other.isnan())
        worst = _largest((other - exact).masked_fill_(same, 0.0))
        largest = _largest(exact.masked_fill(~exact.isfinite(), 0.0))
    if not worst < torch.inf:
        return torch.inf
    return worst / max(largest, torch.finfo(torch.float32).tiny)


def _largest(values: Tensor) -> float:
    """The largest magnitude; NaN where one is."""
    least, most = torch.aminmax(values)
    return max(-float(least), float(most))


def tensor_pairs(value: object, other: object) -> Iterator[tuple[Tensor, Tensor]]:
    """The tensors of two nested values, in pairs."""
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        yield value, other
    elif isinstance(value, (tuple, list)) and isinstance(other, (tuple, list)):
        for one, two in zip(value, other, strict=False):
            yield from tensor_pairs(one, two)


def put_right(value: Any, meant: Any) -> Any:
    """``value`` holding what is ``meant``, in place where it can be; memory formats stay."""
    if isinstance(value, Tensor) and isinstance(meant, Tensor):
        return _tensor_put_right(value, meant)
    if isinstance(value, tuple) and hasattr(value, "_fields") and isinstance(meant, tuple):
        return type(value)(*map(put_right, value, meant))
    if type(value) in (tuple, list) and isinstance(meant, (tuple, list)):
        return type(value)(map(put_right, value, meant))
    return value


def _tensor_put_right(value: Tensor, meant: Tensor) -> Tensor:
    if value.layout is not torch.strided:
        return meant if meant.layout == value.layout else value
    if value.shape != meant.shape or torch.equal(plain(value), meant.to(plain(value).dtype)):
        return value
    if value.is_quantized:
        codes = value.int_repr().copy_(meant)
        return make_per_tensor(codes, value.q_scale(), value.q_zero_point())
    if any(n > 1 and s == 0 for n, s in zip(value.shape, value.stride(), strict=True)):
        return value  # a view of what was put right before
    return value.copy_(meant)


def plain(codes: Tensor) -> Tensor:
    """Codes as a tensor of integers."""
    return codes.int_repr() if codes.is_quantized else codes
