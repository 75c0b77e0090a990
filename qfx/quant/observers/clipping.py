"""The clip range of least squared quantization error, searched over a histogram.

Clipping values to [a, b] before quantizing trades two errors (Krishnamoorthi 2018,
arXiv:1806.08342; Banner et al. 2019, arXiv:1810.05723)::

    E(a, b) = sum_{x < a} (a - x)^2 + sum_{x > b} (x - b)^2 + s^2 / 12 * #{a <= x <= b, x !~ 0}

with step s = (b - a) / (quant_max - quant_min). Values next to 0 are left out of the rounding
term: 0 has a code of its own, and after a relu it is half of the data. With prefix sums of counts,
first and second moments, E costs O(1) per candidate, so all pairs of a grid of bin edges are
evaluated at once. The best of them, and the whole range, are then quantized with their real scale
and zero point, bin by bin; the whole range is left only for a gain that is more than the
histogram's own error. So the result is never worse than min/max on what was seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from qfx.quant import ops

_GRID = 160  # candidate edges on each side of zero
_FINALISTS = 12  # candidates that are evaluated with their real scale and zero point
_GAIN = 0.99  # error must fall below this share of min/max's: a histogram knows no better
_MIN_BINS_PER_STEP = 1.0


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
        half = self.counts.numel() // 2
        borders = torch.arange(-half, half + 1, dtype=torch.float64) * self.width
        return borders.clamp(min(self.low, 0.0), max(self.high, 0.0))


def best_range(
    histogram: Histogram, *, quant_min: int, quant_max: int, symmetric: bool
) -> tuple[float, float]:
    """The range [a, b], a <= 0 <= b, within what was seen, that errs least when quantized.

    Args:
        histogram: what was seen, on the CPU.
        quant_min: smallest code.
        quant_max: largest code.
        symmetric: whether the zero point is the middle code.
    """
    whole = (min(histogram.low, 0.0), max(histogram.high, 0.0))
    steps = quant_max - quant_min
    bins = (whole[1] - whole[0]) / histogram.width
    if bins < _MIN_BINS_PER_STEP * steps:
        return whole
    moments = _Moments(histogram)
    if symmetric:
        low, high = moments.symmetric_candidates(ops.half_steps(quant_min, quant_max))
    else:
        low, high = moments.affine_candidates(steps)
    low = torch.cat([low.new_tensor([whole[0]]), low])
    high = torch.cat([high.new_tensor([whole[1]]), high])
    scale, zero_point = ops.choose_qparams(
        low, high, quant_min=quant_min, quant_max=quant_max, symmetric=symmetric
    )
    errors = expected_error(histogram, scale, zero_point, quant_min, quant_max)
    best = int(errors.argmin())
    if float(errors[best]) >= _GAIN * float(errors[0]):
        return whole
    return float(low[best]), float(high[best])


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


class _Moments:
    """Prefix sums over a histogram, and E(a, b) from them.

    Attributes:
        edges: (2 * B + 1,) borders of the bins.
        sums: (4, 2 * B + 1) counts, first and second moments, and counts that are rounded, of what
            precedes each edge.
    """

    def __init__(self, histogram: Histogram) -> None:
        counts = histogram.counts.double()
        self.edges = histogram.edges
        self.zero = counts.numel() // 2
        centers = (self.edges[1:] + self.edges[:-1]) / 2
        rounded = counts.clone()
        rounded[self.zero - 1 : self.zero + 1] = 0
        columns = (counts, counts * centers, counts * centers.square(), rounded)
        self.sums = counts.new_zeros(len(columns), counts.numel() + 1)
        for column, before in zip(columns, self.sums, strict=True):
            torch.cumsum(column, 0, out=before[1:])

    def affine_candidates(self, steps: int) -> tuple[Tensor, Tensor]:
        """The best pairs (a, b) of the grid."""
        lows = _grid(self._first(), self.zero)
        highs = _grid(self.zero, self._last())
        low, high = self.edges[lows], self.edges[highs]
        # In place: every pair has a number here, and fresh memory costs more than arithmetic.
        error = (high.unsqueeze(0) - low.unsqueeze(1)).div_(steps).square_()
        inside = self.sums[3][highs].unsqueeze(0) - self.sums[3][lows].unsqueeze(1)
        clipped = self._below(lows).unsqueeze(1) + self._above(highs).unsqueeze(0)
        error = error.mul_(inside).div_(12).add_(clipped).flatten()
        best = error.topk(min(_FINALISTS, error.numel()), largest=False).indices
        return low[best // highs.numel()], high[best % highs.numel()]

    def symmetric_candidates(self, half_steps: float) -> tuple[Tensor, Tensor]:
        """The best pairs (-t, t) of the grid; both are cut at what was seen."""
        reach = max(self.zero - self._first(), self._last() - self.zero)
        distance = _grid(0, reach)[1:]
        lows, highs = self.zero - distance, self.zero + distance
        limit = torch.maximum(-self.edges[lows], self.edges[highs])
        inside = self.sums[3][highs] - self.sums[3][lows]
        error = self._below(lows) + self._above(highs) + (limit / half_steps) ** 2 * inside / 12
        best = error.topk(min(_FINALISTS, error.numel()), largest=False).indices
        return self.edges[lows[best]], self.edges[highs[best]]

    def _first(self) -> int:
        """Index of the outermost edge below zero that is of use."""
        return int((self.edges <= self.edges[0]).sum()) - 1

    def _last(self) -> int:
        return self.edges.numel() - int((self.edges >= self.edges[-1]).sum())

    def _below(self, index: Tensor) -> Tensor:
        """Squared error of clipping what lies below each edge."""
        count, first, second, _ = self.sums[:, index]
        at = self.edges[index]
        error: Tensor = at.square() * count - 2 * at * first + second
        return error.clamp_(min=0)

    def _above(self, index: Tensor) -> Tensor:
        count, first, second, _ = self.sums[:, -1:] - self.sums[:, index]
        at = self.edges[index]
        error: Tensor = at.square() * count - 2 * at * first + second
        return error.clamp_(min=0)


def _grid(first: int, last: int) -> Tensor:
    """At most ``_GRID`` indices from ``first`` to ``last``, both included."""
    count = min(last - first + 1, _GRID)
    return torch.linspace(first, last, count, dtype=torch.float64).round_().long()
