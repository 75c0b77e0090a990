"""PercentileObserver: the percentiles of what was seen, to a bin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qfx.quant.observers import PercentileObserver
from qfx.quant.spec import QuantSpec

G = torch.Generator().manual_seed(0)
NORMAL = torch.randn(50_000, generator=G)


def found(x: Tensor, percentile: float, **fields: bool) -> list[float]:
    observer = PercentileObserver.with_args(percentile=percentile)
    dtype = torch.int8 if fields.get("symmetric") else torch.uint8
    watching = QuantSpec(dtype, observer=observer, **fields).make_observer()
    watching(x)
    return [float(end) for end in watching.range()]


@pytest.mark.parametrize("percentile", [75.0, 99.0, 99.9])
def test_affine_ends_are_percentiles(percentile: float) -> None:
    share = torch.tensor([1 - percentile / 100, percentile / 100])
    expected = torch.quantile(NORMAL, share)
    bin = float(NORMAL.abs().max()) / 1024
    torch.testing.assert_close(torch.tensor(found(NORMAL, percentile)), expected, atol=bin, rtol=0)


@pytest.mark.parametrize("percentile", [75.0, 99.0, 99.9])
def test_symmetric_ends_are_a_percentile_of_magnitudes(percentile: float) -> None:
    low, high = found(NORMAL + 0.3, percentile, symmetric=True)
    expected = float(torch.quantile((NORMAL + 0.3).abs(), percentile / 100))
    assert low == -high
    assert high == pytest.approx(expected, abs=float(NORMAL.abs().max()) / 512)


def test_all_of_it_is_the_range() -> None:
    assert found(NORMAL, 100) == [float(NORMAL.min()), float(NORMAL.max())]


@pytest.mark.parametrize("percentile", [60.0, 100.0])
def test_zero_is_always_within(percentile: float) -> None:
    assert found(NORMAL.abs() + 1, percentile)[0] == 0.0
    assert found(-NORMAL.abs() - 1, percentile)[1] == 0.0
    assert found(torch.zeros(7), percentile) == [0.0, 0.0]


def test_one_value_is_kept() -> None:
    assert found(torch.tensor([5.0]), 99.9)[1] == pytest.approx(5.0, rel=1e-3)
