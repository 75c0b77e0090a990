"""EntropyObserver: the divergence that the literature defines, and the threshold of the least."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
import torch
from torch import Tensor

from qfx.quant.observers import EntropyObserver
from qfx.quant.observers.distribution import Histogram
from qfx.quant.observers.entropy import _divergences, least_divergence
from qfx.quant.qparams import choose_qparams
from qfx.quant.spec import QuantSpec

G = torch.Generator().manual_seed(0)
SMALL = QuantSpec(torch.uint8, quant_max=15, observer=EntropyObserver.with_args(bins=64))
SIGNED = QuantSpec(
    torch.int8,
    symmetric=True,
    quant_min=-8,
    quant_max=7,
    observer=EntropyObserver.with_args(bins=64),
)
DATA = {
    "relu": torch.randn(3000, generator=G).relu(),
    "normal": torch.randn(3000, generator=G),
    "skewed": torch.randn(3000, generator=G).exp() - 1,
}


def seen(x: Tensor, spec: QuantSpec) -> Histogram:
    watching = spec.make_observer()
    assert isinstance(watching, EntropyObserver)
    watching(x)
    return watching.seen_values()


def by_hand(histogram: Histogram, low: float, high: float, spec: QuantSpec) -> float:
    """The slides' algorithm, a bin at a time."""
    counts, zero = histogram.counts.tolist(), histogram.zero
    counts[zero] = min(counts[zero], counts[zero + 1])
    counts[zero - 1] = min(counts[zero - 1], counts[zero - 2])
    edges = histogram.edges.tolist()
    center = {i: (edges[i] + edges[i + 1]) / 2 for i, count in enumerate(counts) if count}
    inside = [i for i in center if low < center[i] < high]
    p = {i: float(counts[i]) for i in inside}
    p[inside[0]] += sum(counts[i] for i in center if center[i] <= low)
    p[inside[-1]] += sum(counts[i] for i in center if center[i] >= high)
    qparams = choose_qparams(torch.tensor(low), high, spec)
    assert isinstance(qparams.scale, float)
    assert isinstance(qparams.zero_point, int)
    bins = defaultdict[int, list[int]](list)
    for i in inside:
        code = round(center[i] / qparams.scale + qparams.zero_point)
        bins[min(max(code, qparams.quant_min), qparams.quant_max)].append(i)
    q = {i: sum(counts[j] for j in code) / len(code) for code in bins.values() for i in code}
    n, m = sum(p.values()), sum(q.values())
    divergence = sum(p[i] / n * math.log((p[i] / n) / (q[i] / m)) for i in inside)
    return divergence - (len(inside) - len(bins)) / (2 * n)


@pytest.mark.parametrize("spec", [SMALL, SIGNED], ids=["affine", "symmetric"])
@pytest.mark.parametrize("name", DATA)
def test_divergence_is_that_of_the_slides(name: str, spec: QuantSpec) -> None:
    histogram = seen(DATA[name], spec)
    limit = torch.arange(20, 60, 5) * histogram.width
    low = (-limit).clamp(min=histogram.whole[0])
    high = limit.clamp(max=histogram.whole[1])
    expected = [
        by_hand(histogram, float(a), float(b), spec) for a, b in zip(low, high, strict=True)
    ]
    found = _divergences(histogram, low.double(), high.double(), spec)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_the_tail_is_cut_and_the_body_is_not() -> None:
    body = torch.randn(100_000, generator=G)
    x = torch.cat([body, torch.tensor([40.0, -35.0])])
    watching = QuantSpec(torch.uint8, observer="entropy").make_observer()
    watching(x)
    low, high = (float(end) for end in watching.range())
    assert float(body.min()) * 1.5 < low < -3
    assert 3 < high < float(body.max()) * 1.5


def test_a_spike_at_zero_changes_nothing() -> None:
    values = torch.rand(20_000, generator=G).square() + 0.5
    spec = QuantSpec(torch.uint8, observer="entropy")
    plain = least_divergence(seen(values, spec), spec)
    assert least_divergence(seen(torch.cat([values, torch.zeros(50_000)]), spec), spec) == plain


def test_uniform_values_are_kept_whole() -> None:
    x = torch.rand(100_000, generator=G)
    spec = QuantSpec(torch.uint8, observer="entropy")
    assert least_divergence(seen(x, spec), spec)[1] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("x", [torch.zeros(9), torch.tensor([5.0]), torch.tensor([-3.0, 2.0])])
def test_few_values_are_kept_whole(x: Tensor) -> None:
    spec = QuantSpec(torch.uint8, observer="entropy")
    whole = (min(float(x.min()), 0.0), max(float(x.max()), 0.0))
    assert least_divergence(seen(x, spec), spec) == whole


def test_more_codes_than_bins_keep_everything() -> None:
    spec = QuantSpec(torch.int16, symmetric=True, observer="entropy")
    x = DATA["normal"]
    assert least_divergence(seen(x, spec), spec) == (float(x.min()), float(x.max()))
