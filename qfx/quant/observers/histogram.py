"""The observer of distributions: a histogram that grows with its data, and a search over it.

Here the search is for the least squared error; subclasses search the same histogram for percentiles
(:mod:`~qfx.quant.observers.percentile`) or least divergence (:mod:`~qfx.quant.observers.entropy`).

Bins have the width 2^e and their borders at multiples of it, so 0 is a border. When a value lies
beyond the last bin, e grows and neighbouring bins add up in pairs: no count is ever split. Hence
the histogram of some data is the same whatever the batches and their order, and merging two is
exact (values so small that they underflow beside the largest one aside). Scaling by a power of two
is exact as well, so counting is a floor and ``bincount``, three times as fast as ``torch.histc``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from qfx.errors import ConfigError
from qfx.quant.observers.base import Observer, smallest_and_largest
from qfx.quant.observers.clipping import best_range
from qfx.quant.observers.distribution import Histogram
from qfx.quant.observers.registry import register_observer
from qfx.semantics.layout import dense_view

if TYPE_CHECKING:
    from qfx.quant.spec import QuantSpec

_FINEST = -100  # exponent of the narrowest bins
_FEWEST, _MOST = 16, 2**20  # bins on each side of zero
_CHUNK = 2**17  # values counted at a time: what they need stays in the cache


@register_observer("mse")
@register_observer("histogram")
class HistogramObserver(Observer):
    """The clip range of least squared quantization error, per tensor: "histogram", or "mse".

    See :mod:`qfx.quant.observers.clipping` for the objective. The option ``bins`` (2048) is how
    many bins there are on each side of zero; at least half of them lie within the data.
    """

    options: ClassVar[tuple[str, ...]] = ("bins",)
    bins: ClassVar[int] = 2048
    histogram: Tensor
    exponent: Tensor
    min_val: Tensor
    max_val: Tensor

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self.register_buffer("histogram", torch.zeros(2 * self.bins, dtype=torch.int64))
        self.register_buffer("exponent", torch.tensor(_FINEST))
        self.register_buffer("min_val", torch.tensor(float("inf"), dtype=torch.float32))
        self.register_buffer("max_val", torch.tensor(float("-inf"), dtype=torch.float32))

    @classmethod
    def check(cls, spec: QuantSpec) -> None:
        super().check(spec)
        if not isinstance(cls.bins, int) or not _FEWEST <= cls.bins <= _MOST:
            raise ConfigError(
                f"bins={cls.bins!r} can't tell ranges apart, or can't be held; choose an integer"
                f" from {_FEWEST} to {_MOST}"
            )

    def record(self, x: Tensor) -> None:
        values = dense_view(x)
        low, high = smallest_and_largest(values)
        self._grow(self._exponent_for(max(-low.item(), high.item())))
        bins_per_unit = math.ldexp(1.0, -int(self.exponent))
        index_type = torch.int16 if self.bins < 2**14 else torch.int32
        for chunk in torch.split(values, _CHUNK):
            index = (chunk * bins_per_unit).floor_().add_(self.bins).to(index_type)
            counts = torch.bincount(index, minlength=2 * self.bins)
            self.histogram.add_(counts.to(self.histogram.device))
        self._widen(low, high)

    def range(self) -> tuple[Tensor, Tensor]:
        low, high = self.search(self.seen_values())
        return torch.tensor(low, dtype=torch.float32), torch.tensor(high, dtype=torch.float32)

    def extent(self) -> tuple[Tensor, Tensor]:
        return self.min_val, self.max_val

    def seen_values(self) -> Histogram:
        """What was seen, on the CPU."""
        width = math.ldexp(1.0, int(self.exponent))
        return Histogram(self.histogram.cpu(), width, self.min_val.item(), self.max_val.item())

    def search(self, histogram: Histogram) -> tuple[float, float]:
        """The range to represent, given what was seen; what subclasses choose anew."""
        return best_range(histogram, self.spec)

    def absorb(self, other: HistogramObserver) -> None:
        self._grow(int(other.exponent))
        theirs = _coarser(other.histogram, int(self.exponent) - int(other.exponent))
        self.histogram.add_(theirs.to(self.histogram.device))
        device = self.min_val.device
        self._widen(other.min_val.to(device), other.max_val.to(device))

    def _exponent_for(self, largest: float) -> int:
        """Exponent of the narrowest bins that reach beyond ``largest``."""
        if largest == 0:
            return _FINEST
        return max(math.frexp(largest / self.bins)[1], _FINEST)

    def _grow(self, exponent: int) -> None:
        doublings = exponent - int(self.exponent)
        if doublings > 0:
            self.histogram.copy_(_coarser(self.histogram, doublings))
            self.exponent.fill_(exponent)

    def _widen(self, low: Tensor, high: Tensor) -> None:
        self.min_val.copy_(torch.minimum(self.min_val, low))
        self.max_val.copy_(torch.maximum(self.max_val, high))


def _coarser(histogram: Tensor, doublings: int) -> Tensor:
    """The same counts in bins 2^doublings times as wide."""
    half = histogram.numel() // 2
    bins = torch.arange(-half, half, device=histogram.device) >> min(doublings, 62)
    return torch.zeros_like(histogram).index_add_(0, bins + half, histogram)
