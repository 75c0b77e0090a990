"""Observers of ranges: the smallest and largest value seen, per tensor, averaged, or per channel.

Merging takes the smaller minimum and the larger maximum, so it is exact in any order. A moving
average depends on the order of its data; merging averages the two by the batches each has seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from qfx.errors import ConfigError
from qfx.quant.layout import split_groups
from qfx.quant.observers.base import Observer, require_finite, smallest_and_largest
from qfx.quant.observers.registry import register_observer

if TYPE_CHECKING:
    from qfx.quant.spec import QuantSpec


@register_observer("minmax")
class MinMaxObserver(Observer):
    """The range of everything seen, per tensor."""

    min_val: Tensor
    max_val: Tensor

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self.register_buffer("min_val", torch.tensor(float("inf")))
        self.register_buffer("max_val", torch.tensor(float("-inf")))

    def record(self, x: Tensor) -> None:
        low, high = smallest_and_largest(x)
        self.min_val.copy_(torch.minimum(self.min_val, low))
        self.max_val.copy_(torch.maximum(self.max_val, high))

    def range(self) -> tuple[Tensor, Tensor]:
        return self.min_val, self.max_val

    def absorb(self, other: MinMaxObserver) -> None:
        device = self.min_val.device
        self.min_val.copy_(torch.minimum(self.min_val, other.min_val.to(device)))
        self.max_val.copy_(torch.maximum(self.max_val, other.max_val.to(device)))


@register_observer("moving_average_minmax")
class MovingAverageMinMaxObserver(MinMaxObserver):
    """Exponential averages of the ranges of the batches, per tensor: the observer of QAT.

    ``min = min + c * (batch_min - min)`` and likewise for max, after the first batch (Jacob et al.
    2018, section 3.1); ``c`` is the option ``averaging_constant``.
    """

    options = ("averaging_constant",)
    averaging_constant: ClassVar[float] = 0.01

    def record(self, x: Tensor) -> None:
        low, high = smallest_and_largest(x)
        share = self.averaging_constant if self.seen else 1.0
        self._move(low, high, share)

    def absorb(self, other: MinMaxObserver) -> None:
        mine, theirs = int(self.batches), int(other.batches)
        device = self.min_val.device
        low, high = other.min_val.to(device), other.max_val.to(device)
        self._move(low, high, theirs / (mine + theirs))

    def _move(self, low: Tensor, high: Tensor, share: float) -> None:
        if not self.seen:
            self.min_val.copy_(low)
            self.max_val.copy_(high)
            return
        self.min_val.lerp_(low, share)
        self.max_val.lerp_(high, share)


@register_observer("per_channel_minmax")
class PerChannelMinMaxObserver(Observer):
    """The range of every channel along the axis of the spec, or of every group of a channel."""

    per_channel = True
    min_val: Tensor
    max_val: Tensor

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self.register_buffer("min_val", torch.zeros(0))
        self.register_buffer("max_val", torch.zeros(0))

    def record(self, x: Tensor) -> None:
        low, high = self._extremes(x)
        require_finite(x, (low, high))
        self._widen(low, high)

    def range(self) -> tuple[Tensor, Tensor]:
        return self.min_val, self.max_val

    def absorb(self, other: PerChannelMinMaxObserver) -> None:
        device = self.min_val.device
        self._widen(other.min_val.to(device), other.max_val.to(device))

    def _extremes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        axis = self.spec.channel_axis or 0
        if not -x.dim() <= axis < x.dim():
            raise ConfigError(f"axis={axis} does not exist in a tensor of shape {tuple(x.shape)}")
        if self.spec.group_size is not None:
            groups = split_groups(x, axis, self.spec.group_size)
            return groups.amin(-1), groups.amax(-1)
        others = [d for d in range(x.dim()) if d != axis % x.dim()]
        return (x.amin(others), x.amax(others)) if others else (x.clone(), x.clone())

    def _widen(self, low: Tensor, high: Tensor) -> None:
        if not self.seen:
            self.min_val, self.max_val = low, high
            return
        if low.shape != self.min_val.shape:
            raise ConfigError(
                f"saw {tuple(self.min_val.shape)} channels before and {tuple(low.shape)} now:"
                " per-channel ranges need an axis of fixed size"
            )
        self.min_val = torch.minimum(self.min_val, low)
        self.max_val = torch.maximum(self.max_val, high)
