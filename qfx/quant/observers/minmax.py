"""Observers of ranges: the smallest and largest value seen, or averages of these, per tensor.

Merging takes the smaller minimum and the larger maximum, so it is exact in any order. A moving
average depends on the order of its data; merging averages the two by the batches each has seen.

Values that a range does not cover have no gradient. So in training, an average that lags behind
values that grow, as they do behind a scale that was initialized to zero, stops what makes them from
growing. What grows shows: batch after batch lies beyond the average, of which half would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from qfx.errors import ConfigError
from qfx.quant.observers.base import Observer, is_empty, is_number, smallest_and_largest
from qfx.quant.observers.registry import register_observer
from qfx.semantics.layout import dense_view

if TYPE_CHECKING:
    from qfx.quant.spec import QuantSpec

_PATIENCE = 4
"""After so many batches in a row beyond an end, the average covers them; one that is twice as far
out counts double. Of values that stay as they are it is then some percent too wide."""


@register_observer("minmax")
class MinMaxObserver(Observer):
    """The range of everything seen, per tensor."""

    min_val: Tensor
    max_val: Tensor

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self.register_buffer("min_val", torch.tensor(float("inf"), dtype=torch.float32))
        self.register_buffer("max_val", torch.tensor(float("-inf"), dtype=torch.float32))

    def record(self, x: Tensor) -> None:
        self.take(*smallest_and_largest(x))

    @torch.no_grad()
    def track(self, x: Tensor) -> bool:
        if x.numel() == 0:
            return False
        low, high = (end.float() for end in torch.aminmax(dense_view(x.detach())))
        finite = low.isfinite() & high.isfinite()
        before = {name: buffer.clone() for name, buffer in self.named_buffers()}
        self.follow(low, high)
        for name, old in before.items():
            held = self.get_buffer(name)
            held.copy_(torch.where(finite, held, old))
        self.batches.add_(finite)
        return True

    def follow(self, low: Tensor, high: Tensor) -> None:
        """:meth:`take` in training."""
        self.take(low, high)

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
    """Exponential average of the ranges of the batches, per tensor: the observer of QAT.

    ``min = min + c * (batch_min - min)`` and likewise for max, after the first batch (Jacob et al.
    2018, section 3.1); ``c`` is the option ``averaging_constant``. A range of nothing but zeros is
    none: the next one starts the average, and later it changes nothing. In training, an end is
    moved out to batches that keep to lie beyond it.

    Attributes:
        beyond: (2,) how many batches in a row lay beyond the low and the high end.
    """

    options = ("averaging_constant",)
    averaging_constant: ClassVar[float] = 0.01
    beyond: Tensor

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self.register_buffer("beyond", torch.zeros(2, dtype=torch.int32))

    @classmethod
    def check(cls, spec: QuantSpec) -> None:
        super().check(spec)
        check_averaging_constant(cls.averaging_constant)

    def take(self, low: Tensor, high: Tensor) -> None:
        self._move((low, high), self.averaging_constant)

    def follow(self, low: Tensor, high: Tensor) -> None:
        before, known = self._reach(), ~is_empty(self.min_val, self.max_val)
        self.take(low, high)
        newest = torch.stack([-low, high]).clamp(min=0.0)
        farther = (newest > before).int() + (newest > 2 * before).int()
        row = torch.where(known & (farther > 0), self.beyond + farther, 0).clamp(max=_PATIENCE)
        self.beyond.copy_(row)
        covers = row >= _PATIENCE
        self.min_val.copy_(torch.where(covers[0], low, self.min_val))
        self.max_val.copy_(torch.where(covers[1], high, self.max_val))

    def absorb(self, other: MinMaxObserver) -> None:
        mine, theirs = int(self.batches), int(other.batches)
        device = self.min_val.device
        ends = other.min_val.to(device), other.max_val.to(device)
        self._move(ends, theirs / (mine + theirs))

    def _reach(self) -> Tensor:
        """(2,) how far the range goes below and above zero."""
        return torch.stack([-self.min_val, self.max_val]).clamp(min=0.0)

    def _move(self, ends: tuple[Tensor, Tensor], share: float) -> None:
        low, high = averaged((self.min_val, self.max_val), ends, share)
        self.min_val.copy_(low)
        self.max_val.copy_(high)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: object, **kwargs: object
    ) -> None:
        """Take state without ``beyond``, too: earlier versions had none."""
        if f"{prefix}min_val" in state_dict:
            state_dict.setdefault(f"{prefix}beyond", torch.zeros_like(self.beyond))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def averaged(
    old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], share: float
) -> tuple[Tensor, Tensor]:
    """The average of two ranges, of which an empty one counts for nothing.

    Args:
        old: low and high ends so far, of any shape; infinite before data.
        new: those of the newest batch, of the same shape.
        share: how much of the average the newest is.
    """
    first, passed_over = is_empty(*old), is_empty(*new)
    low, high = (
        torch.where(first, newest, torch.where(passed_over, before, before.lerp(newest, share)))
        for before, newest in zip(old, new, strict=True)
    )
    return low, high


def check_averaging_constant(constant: float) -> None:
    """ConfigError unless ``constant`` is the share that a batch can have in an average."""
    if not is_number(constant) or not 0 < constant <= 1:
        raise ConfigError(
            f"averaging_constant={constant!r} is no share of the newest batch;"
            " choose 0 < averaging_constant <= 1, such as 0.01"
        )
