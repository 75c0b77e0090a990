"""The clip range that changes the distribution of values least, by Kullback-Leibler divergence.

After Migacz 2017 ("8-bit Inference with TensorRT", GTC). For a threshold t, with P the counts of
values clipped to [-t, t] (what lies beyond is counted in the outermost bins) and Q the counts that
remain inside, each code's share spread evenly over the filled bins that it stands for::

    KL(P || Q) = sum_i p_i * log(p_i / q_i),    p, q: P and Q divided by their sums

Wide codes blur Q, clipping piles up in P: the best threshold is between. Four things differ from
the slides, where bins count magnitudes after a relu. A threshold cuts both tails of signed values,
each no further out than what was seen. Bins belong to the codes that the real scale and zero point
give them. The bins next to 0 count no more than their neighbours: 0 has a code of its own, and
after a relu it is half of the data. And the divergence is less the share that is noise of counting,
(filled bins - codes used) / (2 * values), after Miller 1955 ("Note on the bias of information
estimates"): without it few values in many bins look as if each bin mattered, and too much is
clipped.

The divergence knows shares, not distances: a rare value far out costs no more than one just beyond
the threshold. It suits long tails that do not matter; "histogram" weighs how far off values are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qfx.quant.observers.distribution import Histogram, spaced
from qfx.quant.observers.histogram import HistogramObserver
from qfx.quant.observers.registry import register_observer
from qfx.quant.qparams import scale_and_zero_point

if TYPE_CHECKING:
    from qfx.quant.spec import QuantSpec

_GRID = 128  # candidate thresholds


@register_observer("entropy")
class EntropyObserver(HistogramObserver):
    """The clip range of least Kullback-Leibler divergence, per tensor.

    Where the spec has more codes than the data has bins (16 bits), every range keeps the
    distribution, and the range is that of everything seen. Option: ``bins`` as of the histogram.
    """

    def search(self, histogram: Histogram) -> tuple[float, float]:
        return least_divergence(histogram, self.spec)


def least_divergence(histogram: Histogram, spec: QuantSpec) -> tuple[float, float]:
    """The range [a, b], a <= 0 <= b, within what was seen, of least divergence.

    Args:
        histogram: what was seen, on the CPU.
        spec: the codes: bounds, symmetry, powers of two.
    """
    if not histogram.resolves(spec):
        return histogram.whole
    low, high = _candidates(histogram, spec)
    divergences = _divergences(histogram, low, high, spec)
    best = low.numel() - 1 - int(divergences.flip(0).argmin())  # of equal ones, the widest
    return float(low[best]), float(high[best])


def _candidates(histogram: Histogram, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """(K,) ends of the ranges to try, from one bin a code to the whole range."""
    quant_min, quant_max = spec.bounds
    zero, edges = histogram.zero, histogram.edges
    reach = int(max(-edges[0], edges[-1]) / histogram.width) + 1
    distance = spaced(1, min(reach, zero), _GRID)
    low, high = edges[zero - distance], edges[zero + distance]
    enough = (high - low) / histogram.width >= quant_max - quant_min
    return low[enough], high[enough]


def _divergences(histogram: Histogram, low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    """(K,) KL(P || Q) for K ranges; infinite where a range holds nothing."""
    counts = _without_spike(histogram)
    filled = counts.nonzero().squeeze(1)
    if filled.numel() == 0:  # everything is next to zero
        return torch.zeros_like(low)
    counts = counts[filled]
    centers = (histogram.edges[filled] + histogram.edges[filled + 1]) / 2
    inside = (centers > low.unsqueeze(1)) & (centers < high.unsqueeze(1))
    kept = counts * inside
    codes = _codes(centers, low, high, spec)
    spread, used = _spread(kept, codes)
    clipped = _clipped(counts, inside)
    p = clipped / clipped.sum(1, keepdim=True)
    q = spread / spread.sum(1, keepdim=True)
    divergence = torch.where(inside, p * (p / q).log(), 0.0).sum(1)
    noise = (inside.sum(1) - used) / (2 * counts.sum())
    return (divergence - noise).masked_fill(~inside.any(1), torch.inf)


def _without_spike(histogram: Histogram) -> Tensor:
    """Counts as float64, those next to 0 no larger than their neighbours'."""
    counts, zero = histogram.counts.double(), histogram.zero
    counts[zero] = torch.minimum(counts[zero], counts[zero + 1])
    counts[zero - 1] = torch.minimum(counts[zero - 1], counts[zero - 2])
    return counts


def _codes(values: Tensor, low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    """(K, F) codes of F values under K ranges, counted from 0."""
    quant_min, quant_max = spec.bounds
    scale, zero_point = scale_and_zero_point(low, high, spec)
    steps = (values / scale.double().unsqueeze(1)).add_(zero_point.unsqueeze(1)).round_()
    return steps.clamp_(quant_min, quant_max).sub_(quant_min).long()


def _spread(kept: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """(K, F) counts, each code's spread evenly over its filled bins; and (K,) codes used."""
    levels = int(codes.max()) + 1
    total = kept.new_zeros(kept.shape[0], levels).scatter_add_(1, codes, kept)
    bins = torch.zeros_like(total).scatter_add_(1, codes, (kept > 0).double())
    used = (bins > 0).sum(1)
    return (total / bins.clamp_(min=1)).gather(1, codes).mul_(kept > 0), used


def _clipped(counts: Tensor, inside: Tensor) -> Tensor:
    """(K, F) counts inside, with what lies beyond added to the outermost filled bins."""
    rank = inside.cumsum(1)
    before = (rank == 0) & ~inside
    after = ~before & ~inside
    first = inside & (rank == 1)
    last = inside & (rank == rank[:, -1:])
    below, above = (counts * before).sum(1, keepdim=True), (counts * after).sum(1, keepdim=True)
    return counts * inside + below * first + above * last
