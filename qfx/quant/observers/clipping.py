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

Powers of two leave few scales to choose from, so all of these, with zero points on a grid, are
evaluated bin by bin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qfx.quant.observers.distribution import Histogram, expected_error, spaced
from qfx.quant.qparams import scale_and_zero_point
from qfx.semantics import affine as ops

if TYPE_CHECKING:
    from qfx.quant.spec import QuantSpec

_GRID = 160  # candidate edges on each side of zero
_FINALISTS = 12  # candidates that are evaluated with their real scale and zero point
_GAIN = 0.99  # error must fall below this share of min/max's: a histogram knows no better
_HALVINGS = 6  # powers of two below the whole range's
_ZERO_POINTS = 33  # candidates for each power of two


def best_range(histogram: Histogram, spec: QuantSpec) -> tuple[float, float]:
    """The range [a, b], a <= 0 <= b, that errs least when what was seen is quantized.

    It lies within what was seen, up to the next power of two where the spec asks for that.

    Args:
        histogram: what was seen, on the CPU.
        spec: the codes: bounds, symmetry, powers of two.
    """
    whole = histogram.whole
    if not histogram.resolves(spec):
        return whole
    low, high = _candidates(histogram, spec)
    low = torch.cat([low.new_tensor([whole[0]]), low])
    high = torch.cat([high.new_tensor([whole[1]]), high])
    quant_min, quant_max = spec.bounds
    scale, zero_point = scale_and_zero_point(low, high, spec)
    errors = expected_error(histogram, scale, zero_point, quant_min, quant_max)
    best = int(errors.argmin())
    if float(errors[best]) >= _GAIN * float(errors[0]):
        return whole
    return float(low[best]), float(high[best])


def _candidates(histogram: Histogram, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """(K,) low and high ends of the ranges that are worth a closer look."""
    if spec.power_of_two:
        return _power_of_two_candidates(histogram, spec)
    quant_min, quant_max = spec.bounds
    moments = _Moments(histogram)
    if spec.symmetric:
        return moments.symmetric_candidates(ops.half_steps(quant_min, quant_max))
    return moments.affine_candidates(quant_max - quant_min)


def _power_of_two_candidates(histogram: Histogram, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """The ranges whose scales are powers of two: half the whole range's, a quarter, and so on."""
    quant_min, quant_max = spec.bounds
    low, high = (torch.tensor(end, dtype=torch.float64) for end in histogram.whole)
    largest, _ = scale_and_zero_point(low, high, spec)
    scale = (largest.double() * 0.5 ** torch.arange(_HALVINGS + 1)).clamp(min=ops.MIN_SCALE)
    if spec.symmetric:
        limit = scale * ops.half_steps(quant_min, quant_max)
        return -limit, limit
    zero_point = spaced(quant_min, quant_max, _ZERO_POINTS).double().repeat(scale.numel())
    scale = scale.repeat_interleave(zero_point.numel() // scale.numel())
    return (quant_min - zero_point) * scale, (quant_max - zero_point) * scale


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
        lows = spaced(self._first(), self.zero, _GRID)
        highs = spaced(self.zero, self._last(), _GRID)
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
        distance = spaced(0, reach, _GRID)[1:]
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
