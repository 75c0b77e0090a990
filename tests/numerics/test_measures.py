"""SQNR, cosine and largest error of nested outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qfx.errors import ConfigError
from qfx.numerics.measures import Error, cosine, error_of, sqnr


@dataclass
class Output:
    logits: Tensor
    hidden: list[Tensor]


@settings(max_examples=30, deadline=None)
@given(decibels=st.floats(-20, 80), seed=st.integers(0, 99))
def test_sqnr_of_known_noise(decibels: float, seed: int) -> None:
    signal = torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    noise = signal.flip(0)  # of equal power
    assert sqnr(signal, signal + noise * 10 ** (-decibels / 20)) == pytest.approx(decibels)


def test_equal_and_opposite() -> None:
    x = torch.randn(10)
    assert sqnr(x, x.clone()) == math.inf
    assert cosine(x, x * 3) == pytest.approx(1.0)
    assert cosine(x, -x) == pytest.approx(-1.0)
    assert error_of(x, x + 0.5).max_error == pytest.approx(0.5)


def test_zeros() -> None:
    zeros = torch.zeros(3)
    assert sqnr(zeros, zeros) == math.inf
    assert sqnr(zeros, torch.ones(3)) == -math.inf
    assert sqnr(torch.ones(3), torch.full((3,), -math.inf)) == -math.inf
    assert cosine(zeros, zeros) == 1.0
    assert cosine(zeros, torch.ones(3)) == 0.0


def test_nan_is_not_hidden() -> None:
    error = error_of(torch.ones(2), torch.tensor([1.0, float("nan")]))
    assert math.isnan(error.sqnr)
    assert math.isnan(error.max_error)


def test_masked_logits_are_no_error() -> None:
    reference = torch.tensor([1.0, -math.inf])
    assert sqnr(reference, torch.tensor([1.1, -math.inf])) == pytest.approx(20.0, abs=1e-3)


def test_nested_outputs() -> None:
    x = torch.randn(3)
    reference = Output(x, [x, x])
    actual = Output(x * 1.1, [x * 1.1, x * 1.1])
    assert sqnr(reference, actual) == pytest.approx(20.0, abs=1e-4)
    assert sqnr({"a": (x, 3)}, {"a": (x * 1.1, 4)}) == pytest.approx(20.0, abs=1e-4)


def test_batches_add_up() -> None:
    first, second, noise = torch.randn(5), torch.randn(7), torch.randn(12)
    parts = Error()
    parts.add(first, first + noise[:5])
    parts.add(second, second + noise[5:])
    parts.add(torch.zeros(0), torch.zeros(0))
    whole = torch.cat([first, second])
    assert parts.sqnr == pytest.approx(sqnr(whole, whole + noise), abs=1e-4)
    assert parts.count == 12


@pytest.mark.parametrize(
    ("reference", "actual", "message"),
    [
        ({"a": torch.ones(1)}, {"b": torch.ones(1)}, "different structures"),
        (torch.ones(2), (torch.ones(2),), "different structures"),
        (torch.ones(2), torch.ones(3), "shapes"),
        (torch.ones(2).int(), torch.ones(2).int(), "no floating-point"),
    ],
)
def test_outputs_that_cannot_be_compared(reference: object, actual: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sqnr(reference, actual)
