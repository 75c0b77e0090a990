"""The range that leaves out a given share of the values: percentiles of a histogram."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from qfx.errors import ConfigError
from qfx.quant.observers.base import is_number
from qfx.quant.observers.distribution import Histogram
from qfx.quant.observers.histogram import HistogramObserver
from qfx.quant.observers.registry import register_observer

if TYPE_CHECKING:
    from qfx.quant.spec import QuantSpec


@register_observer("percentile")
class PercentileObserver(HistogramObserver):
    """The range without the outermost values, per tensor.

    Affine, [100 - p, p] percentiles of the values; symmetric, [-t, t] with t the p-th percentile
    of their magnitudes (Wu et al. 2020, arXiv:2004.09602, section 4.2). Values are taken to lie
    evenly within a bin, so an end is off by less than a bin, 1/1024 of the largest magnitude.

    Options: ``percentile`` (99.999), above 50 and up to 100, fewer codes want a lower one (99.9 at
    4 bits); ``bins`` as of the histogram.
    """

    options = ("bins", "percentile")
    percentile: ClassVar[float] = 99.999

    @classmethod
    def check(cls, spec: QuantSpec) -> None:
        super().check(spec)
        if not is_number(cls.percentile) or not 50 < cls.percentile <= 100:
            raise ConfigError(
                f"percentile={cls.percentile!r} leaves nothing to quantize, or is none;"
                " choose 50 < percentile <= 100, such as 99.99"
            )

    def search(self, histogram: Histogram) -> tuple[float, float]:
        share = self.percentile / 100
        if self.spec.symmetric:
            limit = _magnitude(histogram, share)
            return -limit, limit
        low = _quantile(histogram.counts, histogram.edges, 1 - share)
        return min(low, 0.0), max(_quantile(histogram.counts, histogram.edges, share), 0.0)


def _magnitude(histogram: Histogram, share: float) -> float:
    """The magnitude that a ``share`` of the values does not exceed."""
    zero = histogram.zero
    counts = histogram.counts[zero:] + histogram.counts[:zero].flip(0)
    edges = torch.maximum(histogram.edges[zero:], -histogram.edges[: zero + 1].flip(0))
    return _quantile(counts, edges, share)


def _quantile(counts: Tensor, edges: Tensor, share: float) -> float:
    """The value that a ``share`` of what is counted lies below."""
    below = counts.double().cumsum(0)
    wanted = share * below[-1]
    bin = min(int(torch.searchsorted(below, wanted)), counts.numel() - 1)
    within = 1.0 - (below[bin] - wanted) / counts[bin].clamp(min=1)
    return float(torch.lerp(edges[bin], edges[bin + 1], within.clamp(0.0, 1.0)))
