"""Observers of ranges per channel along the axis of the spec, or per group of a channel.

Minima and maxima merge exactly, in any order. A moving average depends on the order of its data;
merging averages the two by the batches each has seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from qfx.errors import ConfigError
from qfx.quant.layout import split_groups
from qfx.quant.observers.base import Observer, require_finite
from qfx.quant.observers.minmax import check_averaging_constant
from qfx.quant.observers.registry import register_observer

if TYPE_CHECKING:
    from qfx.quant.spec import QuantSpec


@register_observer("per_channel_minmax")
class PerChannelMinMaxObserver(Observer):
    """The range of every channel along the axis of the spec, or of every group of a channel.

    Attributes:
        min_val, max_val: (C,) ends, or (C, G) with groups; empty before data.
    """

    per_channel = True
    min_val: Tensor
    max_val: Tensor

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self.register_buffer("min_val", torch.zeros(0))
        self.register_buffer("max_val", torch.zeros(0))

    def record(self, x: Tensor) -> None:
        low, high = self.extremes(self.values(x))
        if self.seen:
            self.require_same(low)
            low, high = torch.minimum(self.min_val, low), torch.maximum(self.max_val, high)
        self.min_val, self.max_val = low, high

    def range(self) -> tuple[Tensor, Tensor]:
        return self.min_val, self.max_val

    def absorb(self, other: PerChannelMinMaxObserver) -> None:
        low, high = self.ends_of(other)
        if self.seen:
            low, high = torch.minimum(self.min_val, low), torch.maximum(self.max_val, high)
        self.min_val, self.max_val = low, high

    # -- for subclasses --------------------------------------------------------------------------
    def values(self, x: Tensor) -> Tensor:
        """(C, N) values of each channel, or (C, G, N) of each group; ConfigError if ``x`` has none.

        A view where the axis is the first.
        """
        axis = self.spec.channel_axis or 0
        if not -x.dim() <= axis < x.dim():
            raise ConfigError(f"axis={axis} does not exist in a tensor of shape {tuple(x.shape)}")
        if self.spec.group_size is not None:
            return split_groups(x, axis, self.spec.group_size)
        return x.movedim(axis, 0).reshape(x.shape[axis], -1)

    def extremes(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest of each row of ``values``; CalibrationError if one is not finite."""
        low, high = values.amin(-1), values.amax(-1)
        require_finite(values, (low, high))
        return low, high

    def require_same(self, ends: Tensor) -> None:
        """ConfigError unless ``ends`` are of as many channels as were seen before."""
        if ends.shape != self.min_val.shape:
            raise ConfigError(
                f"saw {tuple(self.min_val.shape)} channels before and {tuple(ends.shape)} now:"
                " per-channel ranges need an axis of fixed size"
            )

    def ends_of(self, other: PerChannelMinMaxObserver) -> tuple[Tensor, Tensor]:
        """The ends of ``other``, on the device of this one."""
        device = self.min_val.device
        low, high = other.min_val.to(device), other.max_val.to(device)
        if self.seen:
            self.require_same(low)
        return low, high


class AveragedPerChannelObserver(PerChannelMinMaxObserver):
    """Base of observers that average the ranges of batches; a subclass says how."""

    def record(self, x: Tensor) -> None:
        low, high = self.batch_range(self.values(x))
        if self.seen:
            self.require_same(low)
        self._move(low, high, self.share())

    def absorb(self, other: PerChannelMinMaxObserver) -> None:
        mine, theirs = int(self.batches), int(other.batches)
        self._move(*self.ends_of(other), theirs / (mine + theirs))

    def batch_range(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The range of each row of one batch; see :meth:`values`."""
        return self.extremes(values)

    def share(self) -> float:
        """How much of the average a batch is that comes after others."""
        raise NotImplementedError

    def _move(self, low: Tensor, high: Tensor, share: float) -> None:
        if self.seen:
            low, high = self.min_val.lerp(low, share), self.max_val.lerp(high, share)
        self.min_val, self.max_val = low, high


@register_observer("moving_average_per_channel_minmax")
class MovingAveragePerChannelMinMaxObserver(AveragedPerChannelObserver):
    """Exponential averages of the ranges of batches, per channel: for weights in training.

    As :class:`~qfx.quant.observers.minmax.MovingAverageMinMaxObserver`, with the same option
    ``averaging_constant`` (0.01).
    """

    per_tensor = "moving_average_minmax"
    options = ("averaging_constant",)
    averaging_constant: ClassVar[float] = 0.01

    @classmethod
    def check(cls, spec: QuantSpec) -> None:
        super().check(spec)
        check_averaging_constant(cls.averaging_constant)

    def share(self) -> float:
        return self.averaging_constant
