"""When results agree: ratios, structures, and the floor below which no engine can be blamed."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.engines.agreement import (
    AGREES,
    LEAST,
    compare,
    floor,
    least_of,
    reason_against,
    run_moved,
)
from qfx.export.onnx.seen import run_seeing

X = torch.linspace(-1, 1, 100)


@pytest.mark.parametrize(
    ("wanted", "found", "why"),
    [
        (X, X[:50], r"yields torch.float32\[50\] instead"),
        (X, X.double(), "float64"),
        ((X, X), (X,), "another structure"),
        ({"a": X}, {"b": X}, "another structure"),
        ((X, 3), (X, 4), "yields 4 instead of 3"),
        (X, X * math.nan, "NaN"),
        (torch.arange(100), torch.arange(100).flip(0), "100 of 100 integers"),
        (X, X + 0.1, "disagrees with the reference: 15"),
        (X, X + 1e-6, ""),
        (torch.arange(100), torch.arange(100).clamp(max=97), ""),
        (X.clamp(min=0).log(), X.clamp(min=0).log(), ""),
        ((X, None, 3), (X, None, 3), ""),
        ((1e4 * X, 0.01 * X), (1e4 * X, 0 * X), "disagrees with the reference: 0"),
        ((X, 1e-9 * X, 0 * X), (X, -1e-9 * X, 1e-9 * X), ""),  # what rounding makes of nothing
    ],
)
def test_what_agrees(wanted: Any, found: Any, why: str) -> None:
    reason = reason_against(compare(wanted, found), AGREES)
    assert bool(reason) == bool(why)
    assert re.search(why, reason)


def test_the_floor_is_what_moved_sums_leave() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 32)
    layers = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    model = qfx.quantize(layers, x, progress=False)
    arguments: dict[str, Tensor] = {"input": x}
    wanted, _ = run_seeing(model.reference, arguments)
    found = floor(wanted, run_moved(model.reference, arguments))
    assert 20 < found < 160
    assert floor(wanted, run_moved(model.reference, arguments)) == found


def test_the_least_ratio() -> None:
    assert least_of(math.inf) == AGREES
    assert least_of(30.0) == 24.0
    assert least_of(3.0) == LEAST
