"""HistogramObserver: exact counts, and a range that errs no more than min/max."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qfx.quant.observers import HistogramObserver
from qfx.quant.observers.clipping import best_range
from qfx.quant.observers.distribution import Histogram, expected_error
from qfx.quant.qparams import QParams
from qfx.quant.spec import QuantSpec

G = torch.Generator().manual_seed(0)
DISTRIBUTIONS = {
    "normal": torch.randn(40_000, generator=G),
    "relu": torch.randn(40_000, generator=G).relu(),
    "laplace": -torch.rand(40_000, generator=G).log() * torch.randn(40_000, generator=G).sign(),
    "outlier": torch.cat([torch.randn(40_000, generator=G), torch.tensor([40.0])]),
    "gelu": torch.nn.functional.gelu(torch.randn(40_000, generator=G)),
    "uniform": torch.rand(40_000, generator=G) * 2 - 1,
    "pixels": torch.randint(0, 256, (40_000,), generator=G) / 255,
    "shifted": torch.randn(40_000, generator=G) + 10,
    "negative": -torch.rand(40_000, generator=G) - 1,
    "tiny": torch.randn(40_000, generator=G) * 1e-8,
    "huge": torch.randn(40_000, generator=G) * 1e30,
    "constant": torch.full((1000,), 3.7),
    "zeros": torch.zeros(1000),
    "single": torch.tensor([5.0]),
}
SCHEMES = {
    "affine": QuantSpec(torch.uint8, observer="histogram"),
    "7 bits": QuantSpec(torch.uint8, observer="histogram", quant_max=127),
    "symmetric": QuantSpec(torch.int8, symmetric=True, observer="histogram"),
    "4 bits": QuantSpec(torch.int8, observer="histogram", quant_min=-8, quant_max=7),
    "16 bits": QuantSpec(torch.int16, symmetric=True, observer="histogram"),
    "powers of two": QuantSpec(torch.uint8, observer="histogram", power_of_two=True),
    "symmetric powers of two": QuantSpec(
        torch.int8, symmetric=True, observer="histogram", power_of_two=True
    ),
}


def observer(spec: QuantSpec = SCHEMES["affine"]) -> HistogramObserver:
    made = spec.make_observer()
    assert isinstance(made, HistogramObserver)
    return made


def squared_error(x: Tensor, qparams: QParams) -> float:
    restored = qparams.dequantize(qparams.quantize(x), torch.float64)
    return float((restored - x.double()).square().mean())


def minmax(x: Tensor, spec: QuantSpec) -> QParams:
    plain = QuantSpec(
        spec.dtype,
        symmetric=spec.symmetric,
        quant_min=spec.quant_min,
        quant_max=spec.quant_max,
        power_of_two=spec.power_of_two,
    ).make_observer()
    plain(x)
    return plain.qparams()


@pytest.mark.sweep
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_never_worse_than_minmax(name: str, scheme: str) -> None:
    x, spec = DISTRIBUTIONS[name], SCHEMES[scheme]
    watching = observer(spec)
    watching(x)
    assert squared_error(x, watching.qparams()) <= squared_error(x, minmax(x, spec)) * (1 + 1e-9)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["normal", "laplace", "outlier"])
@pytest.mark.parametrize("scheme", ["affine", "symmetric", "4 bits"])
def test_close_to_the_best_of_a_fine_search(name: str, scheme: str) -> None:
    x, spec = DISTRIBUTIONS[name], SCHEMES[scheme]
    watching = observer(spec)
    watching(x)
    low, high = float(x.min()), float(x.max())
    best = min(
        squared_error(x, minmax(torch.tensor([low * i / 40, high * j / 40]), spec))
        for i in range(4, 41, 2)
        for j in range(4, 41, 2)
    )
    assert squared_error(x, watching.qparams()) <= best * 1.02


@pytest.mark.parametrize("name", ["normal", "laplace", "outlier", "gelu"])
def test_the_best_of_all_powers_of_two(name: str) -> None:
    x, spec = DISTRIBUTIONS[name], SCHEMES["powers of two"]
    watching = observer(spec)
    watching(x)
    plain = minmax(x, spec)
    assert isinstance(plain.scale, float)
    best = min(
        squared_error(x, QParams(plain.scale / 2**halvings, zero, torch.uint8, 0, 255))
        for halvings in range(5)
        for zero in range(0, 256, 3)
    )
    assert squared_error(x, watching.qparams()) <= best * 1.05


def test_mse_is_another_name() -> None:
    assert QuantSpec(torch.uint8, observer="mse") == SCHEMES["affine"]


def test_counts_are_exact() -> None:
    watching = observer()
    watching(torch.tensor([0.0, 0.25, 0.5, 0.75, -0.25, 3.0]))
    assert int(watching.exponent) == -9  # 2048 bins of 1/512 reach beyond 3
    filled = {int(i) - 2048: int(watching.histogram[i]) for i in watching.histogram.nonzero()}
    assert filled == {-128: 1, 0: 1, 128: 1, 256: 1, 384: 1, 1536: 1}


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(-(10**30), 10**30).map(float), min_size=1, max_size=12),
    st.lists(st.integers(-(10**9), 10**9).map(lambda i: i * 1e-9), min_size=1, max_size=12),
)
def test_growth_loses_no_count(large: list[float], small: list[float]) -> None:
    watching = observer()
    watching(torch.tensor(small))
    watching(torch.tensor(large))
    at_once = observer()
    at_once(torch.tensor(small + large))
    assert int(watching.histogram.sum()) == len(large) + len(small)
    assert torch.equal(watching.histogram, at_once.histogram)


def test_counts_survive_chunks_and_memory_formats() -> None:
    x = torch.randn(2, 8, 100, 100, generator=G)
    plain, last = observer(), observer()
    plain(x)
    last(x.to(memory_format=torch.channels_last))
    for part in x:
        plain(part)
        last(part)
    assert torch.equal(plain.histogram, last.histogram)
    assert int(plain.histogram.sum()) == 2 * x.numel()


def test_bins_are_an_option() -> None:
    spec = QuantSpec(torch.uint8, observer=HistogramObserver.with_args(bins=256))
    watching = observer(spec)
    watching(DISTRIBUTIONS["normal"])
    assert watching.histogram.shape == (512,)
    assert squared_error(DISTRIBUTIONS["normal"], watching.qparams()) < 2e-4


def test_few_values_are_kept_whole() -> None:
    counts = torch.zeros(16, dtype=torch.int64)
    counts[10] = 5
    histogram = Histogram(counts, 1.0, 0.0, 2.5)
    assert best_range(histogram, SCHEMES["affine"]) == (0.0, 2.5)


def test_expected_error_of_steps_finer_than_bins() -> None:
    counts = torch.zeros(8, dtype=torch.int64)
    counts[4:8] = 3
    histogram = Histogram(counts, 1.0, 0.0, 4.0)
    scale, zero = torch.tensor([1 / 64]), torch.tensor([0])
    error = expected_error(histogram, scale, zero, 0, 256)
    torch.testing.assert_close(error, torch.tensor([12 / 64**2 / 12], dtype=torch.float64))
