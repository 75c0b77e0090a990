"""Observers of ranges: the smallest and largest value seen, or averages of these, per tensor.

Merging takes the smaller minimum and the larger maximum, so it is exact in any order. A moving
average depends on the order of its data; merging averages the two by the batches each has seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from qfx.errors import ConfigError
from qfx.quant.layout import dense_view
from qfx.quant.observers.base import Observer, is_number, smallest_and_largest
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
        self.take(*smallest_and_largest(x))

    @torch.no_grad()
    def track(self, x: Tensor) -> None:
        if x.numel() == 0:
            return
        low, high = (end.float() for end in torch.aminmax(dense_view(x.detach())))
        finite = low.isfinite() & high.isfinite()
        before = self.min_val.clone(), self.max_val.clone()
        self.take(low, high)
        for end, old in zip((self.min_val, self.max_val), before, strict=True):
            end.copy_(torch.where(finite, end, old))
        self.batches.add_(finite)

    def take(self, low: Tensor, high: Tensor) -> None:
        """Remember the range of a batch, without asking the device for a value."""
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

    @classmethod
    def check(cls, spec: QuantSpec) -> None:
        super().check(spec)
        check_averaging_constant(cls.averaging_constant)

    def take(self, low: Tensor, high: Tensor) -> None:
        first = self.batches == 0
        for end, new in ((self.min_val, low), (self.max_val, high)):
            end.copy_(torch.where(first, new, end.lerp(new, self.averaging_constant)))

    def absorb(self, other: MinMaxObserver) -> None:
        mine, theirs = int(self.batches), int(other.batches)
        device = self.min_val.device
        share = theirs / (mine + theirs)
        for end, new in ((self.min_val, other.min_val), (self.max_val, other.max_val)):
            end.copy_(end.lerp(new.to(device), share) if mine else new)


def check_averaging_constant(constant: float) -> None:
    """ConfigError unless ``constant`` is the share that a batch can have in an average."""
    if not is_number(constant) or not 0 < constant <= 1:
        raise ConfigError(
            f"averaging_constant={constant!r} is no share of the newest batch;"
            " choose 0 < averaging_constant <= 1, such as 0.01"
        )
