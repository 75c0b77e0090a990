"""Sizes in texts that are only shown are no decisions; in any other text they are."""

# ruff: noqa: UP031
from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import qfx
from qfx.capture.capture import capture
from tests.capture.test_numpy_of_shapes import Scales
from tests.cases.flow import randn, seeded

Of = Callable[[Tensor], float]


def percent(x: Tensor) -> float:
    warnings.warn("size %d, %5.1f, %s" % (x.shape[2], x.shape[3], x.shape), stacklevel=2)
    return 2.0


def of_one(x: Tensor) -> float:
    warnings.warn("size %d" % x.shape[2], stacklevel=2)
    return 2.0


def kept(x: Tensor) -> float:
    message = f"size {x.shape[2]}, " + "%i" % x.shape[3]
    warnings.warn(message, stacklevel=2)
    return 2.0


def raised(x: Tensor) -> float:
    message = f"size {x.shape[2]}"
    if x.dim() != 4:
        raise ValueError(message)
    return 2.0


def key(x: Tensor) -> float:
    message = f"size {x.shape[2]}"
    warnings.warn(message, stacklevel=2)
    return {"size 8": 2.0}.get(message, 3.0)


def asserted(x: Tensor) -> float:
    message = f"size {x.shape[2]}"
    assert message in ("size 8", "size 7")
    return 2.0


def key_by_percent(x: Tensor) -> float:
    return {"size 8": 2.0}.get("size %d" % x.shape[2], 3.0)


def told_by_a_helper(x: Tensor) -> float:
    size = "%d" % x.shape[2]

    def scale() -> float:
        return float(size == "8")

    return 1 + scale()


@pytest.mark.filterwarnings("ignore:size")
@pytest.mark.parametrize("of", [percent, of_one, kept, raised])
def test_what_is_shown_is_free(of: Of) -> None:
    model = seeded(lambda: Scales(of))
    captured = capture(model, (randn(2, 3, 8, 8),))
    other = randn(1, 3, 9, 10)
    torch.testing.assert_close(captured(other), model(other))


@pytest.mark.filterwarnings("ignore:size")
@pytest.mark.parametrize("of", [key, asserted, key_by_percent, told_by_a_helper])
def test_what_is_read_is_guarded(of: Of) -> None:
    captured = capture(seeded(lambda: Scales(of)), (randn(2, 3, 8, 8),))
    with pytest.raises(qfx.ConfigError, match=r"at \S*test_shown_texts.py:\d+ = 8"):
        captured(randn(1, 3, 9, 10))
