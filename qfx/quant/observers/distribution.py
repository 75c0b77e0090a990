"""What a histogram says of values: where they lie, and how far quantized ones would be off.

The one histogram that every search of a range reads, and the one objective that squares errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from qfx.quant.spec import QuantSpec


@dataclass(frozen=True)
class Histogram:
    """Counts over bins of equal width on both sides of zero.

    Attributes:
        counts: (2 * B,) integers; bin ``B + i`` counts values in [i * width, (i + 1) * width).
        width: of a bin.
        low, high: smallest and largest value seen.
    """

    counts: Tensor
    width: float
    low: float
    high: float

    @cached_property
    def edges(self) -> Tensor:
        """(2 * B + 1,) borders of the bins, none beyond the smallest and largest value or 0."""
        half = self.zero
        borders = torch.arange(-half, half + 1, dtype=torch.float64) * self.width
        return borders.clamp(*self.whole)

    @property
    def zero(self) -> int:
        """Index of the border at 0."""
        return self.counts.numel() // 2

    @property
    def whole(self) -> tuple[float, float]:
        """The range of everything seen, with 0."""
        return min(self.low, 0.0), max(self.high, 0.0)

    def resolves(self, spec: QuantSpec) -> bool:
        """Whether the codes of ``spec`` are no more than the bins of the whole range.

        Where they are more (16 bits), counts can't tell one range from another by its rounding.
        """
        quant_min, quant_max = spec.bounds
        low, high = self.whole
        return (high - low) / self.width >= quant_max - quant_min


def spaced(first: int, last: int, most: int) -> Tensor:
    """At most ``most`` indices from ``first`` to ``last``, both included."""
    count = min(last - first + 1, most)
    return torch.linspace(first, last, count, dtype=torch.float64).round_().long()


def expected_error(
    histogram: Histogram, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int
) -> Tensor:
    """Sum of squared errors of quantizing what the histogram counts, for K pairs of qparams.

    Every bin stands for its two quarter points; where a step is finer than a bin, rounding
    errs by its mean, s^2 / 12.

    Args:
        histogram: what was seen.
        scale: (K,) candidates.
        zero_point: (K,) candidates.
        quant_min: smallest code.
        quant_max: largest code.

    Returns:
        (K,) float64.
    """
    filled = histogram.counts.nonzero().squeeze(1)
    edges = histogram.edges
    left, width = edges[filled], edges[filled + 1] - edges[filled]
    points = torch.cat([left + width / 4, left + width * (3 / 4)])
    weights = histogram.counts[filled].double().repeat(2) / 2
    step = scale.double().unsqueeze(1)
    zero = zero_point.double().unsqueeze(1)
    codes = (points / step + zero).round_()
    inside = (codes >= quant_min) & (codes <= quant_max)
    errors = codes.clamp_(quant_min, quant_max).sub_(zero).mul_(step).sub_(points).square_()
    fine = inside & (step < histogram.width)
    errors = torch.where(fine, step.square() / 12, errors)
    return errors @ weights
