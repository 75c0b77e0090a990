"""Observers of ranges per channel along the axis of the spec, or per group of a channel.

Minima and maxima merge exactly, in any order. A moving average depends on the order of its data;
merging averages the two by the batches each has seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from qfx.errors import ConfigError
from qfx.quant.observers.base import Observer, require_finite
from qfx.quant.observers.minmax import averaged, check_averaging_constant
from qfx.quant.observers.registry import register_observer
from qfx.semantics.layout import split_groups

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
        self.register_buffer("min_val", torch.zeros(0, dtype=torch.float32))
        self.register_buffer("max_val", torch.zeros(0, dtype=torch.float32))

    def record(self, x: Tensor) -> None:
        self.take(*self.extremes(self.values(x)))

    @torch.no_grad()
    def track(self, x: Tensor) -> bool:
        if x.numel() == 0:
            return False
        values = self.values(x.detach())
        low, high = values.amin(-1).float(), values.amax(-1).float()
        finite = (high - low).isfinite().all()
        before = self.ends_before(low)
        self.take(low, high)
        for end, old in zip((self.min_val, self.max_val), before, strict=True):
            end.copy_(torch.where(finite, end, old))
        self.batches.add_(finite)
        return True

    def take(self, low: Tensor, high: Tensor) -> None:
        """Remember the ranges of a batch, without asking the device for a value."""
        before = self.ends_before(low)
        self.hold(torch.minimum(before[0], low), torch.maximum(before[1], high))

    def range(self) -> tuple[Tensor, Tensor]:
        return self.min_val, self.max_val

    def absorb(self, other: PerChannelMinMaxObserver) -> None:
        low, high = other.min_val.to(self.min_val.device), other.max_val.to(self.min_val.device)
        before = self.ends_before(low)
        self.hold(torch.minimum(before[0], low), torch.maximum(before[1], high))

    # -- for subclasses --------------------------------------------------------------------------
    def blanks(self) -> dict[str, Tensor]:
        nothing = torch.full_like(self.min_val, torch.inf)
        return super().blanks() | {"min_val": nothing, "max_val": -nothing}

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

    def ends_before(self, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of the ends so far, infinite before data; ConfigError unless ``ends`` fit them."""
        if ends.shape == self.min_val.shape:
            return self.min_val.clone(), self.max_val.clone()
        if self.min_val.numel() and self.seen:
            raise ConfigError(
                f"saw {tuple(self.min_val.shape)} channels before and {tuple(ends.shape)} now:"
                " per-channel ranges need an axis of fixed size"
            )
        nothing = torch.full_like(ends, torch.inf)
        return nothing, -nothing

    def hold(self, low: Tensor, high: Tensor) -> None:
        """Remember these ends; in place, where there are as many."""
        if low.shape == self.min_val.shape:
            self.min_val.copy_(low)
            self.max_val.copy_(high)
        else:
            self.min_val, self.max_val = low, high


@register_observer("moving_average_per_channel_minmax")
class MovingAveragePerChannelMinMaxObserver(PerChannelMinMaxObserver):
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

    def take(self, low: Tensor, high: Tensor) -> None:
        self.hold(*averaged(self.ends_before(low), (low, high), self.averaging_constant))

    def absorb(self, other: PerChannelMinMaxObserver) -> None:
        mine, theirs = int(self.batches), int(other.batches)
        ends = other.min_val.to(self.min_val.device), other.max_val.to(self.min_val.device)
        self.hold(*averaged(self.ends_before(ends[0]), ends, theirs / (mine + theirs)))
