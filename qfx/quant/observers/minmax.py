"""Observers of ranges: the smallest and largest value seen, or averages of these, per tensor.

Merging takes the smaller minimum and the larger maximum, so it is exact in any order. A moving
average depends on the order of its data; merging averages the two by the batches each has seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from qfx.errors import ConfigError
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

    @classmethod
    def check(cls, spec: QuantSpec) -> None:
        super().check(spec)
        check_averaging_constant(cls.averaging_constant)

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


def check_averaging_constant(constant: float) -> None:
    """ConfigError unless ``constant`` is the share that a batch can have in an average."""
    if not is_number(constant) or not 0 < constant <= 1:
        raise ConfigError(
            f"averaging_constant={constant!r} is no share of the newest batch;"
            " choose 0 < averaging_constant <= 1, such as 0.01"
        )
