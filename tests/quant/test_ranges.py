"""Ranges narrower than the dtype, and fixed ranges that others had to share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from tests.cases.flow import Branches, randn, seeded, sqnr

X = randn(4, 4, 8, 8) * 4
BACKENDS = ("x86", "fbgemm", "qnnpack", "reference")
WEIGHT = qfx.QuantSpec(torch.int8, symmetric=True, per_channel=True)
Function = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """A function between two convolutions."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3)
        nn.init.normal_(self.first.weight, 0, 0.5)
        self.last = nn.Conv2d(4, 4, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.function(self.first(x)))
        return y


def clamp(x: Tensor) -> Tensor:
    return x.clamp(-1, 2)


@pytest.mark.sweep
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bounds", [(0, 127), (20, 200)])
def test_bounds_of_codes(backend: str, bounds: tuple[int, int]) -> None:
    """Kernels saturate at 0 and 255: narrower bounds, as reduce_range sets them, do not clamp."""
    low, high = bounds
    zero_at_0 = (torch.sigmoid, F.hardsigmoid)  # their zero point: no other lowest code is theirs
    functions = (F.relu, F.relu6, clamp, *(() if low > 0 else zero_at_0))
    activation = qfx.QuantSpec(torch.uint8, quant_min=low, quant_max=high)
    model = Branches(seeded(Between, function) for function in functions)
    qconfig, inputs = qfx.QConfig(activation=activation, weight=WEIGHT), [X] * len(functions)
    qmodel = qfx.quantize(model, (inputs,), backend=backend, qconfig=qconfig)
    for function, y, ours in zip(functions, model(inputs), qmodel(inputs), strict=True):
        assert sqnr(y, ours) > 22, function


@pytest.mark.parametrize("function", [torch.sigmoid, torch.tanh])
def test_fixed_range_keeps_its_dtype(function: Function) -> None:
    """Codes 0..255 of 1/256 do not fit int8: sigmoid was clipped at one half."""
    model = seeded(Between, function)
    qconfig = qfx.QConfig(activation=qfx.QuantSpec(torch.int8, symmetric=True), weight=WEIGHT)
    qmodel = qfx.quantize(model, X, backend="reference", qconfig=qconfig)
    assert sqnr(model(X), qmodel(X)) > 25


class Joined(nn.Module):
    """cat of what functions make of a convolution."""

    def __init__(self, *functions: Function) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3)
        self.last = nn.Conv2d(4 * len(functions), 4, 3)
        self.functions = functions

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z: Tensor = self.last(torch.cat([f(y) for f in self.functions], 1))
        return z


def same(x: Tensor) -> Tensor:
    return x * 1


@pytest.mark.sweep
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "functions",
    [
        (torch.sigmoid, same),
        (same, torch.tanh),
        (torch.sigmoid, torch.tanh),
        (same, F.hardsigmoid),
        (same, lambda x: torch.softmax(x, 1)),
    ],
)
def test_cat_does_not_spread_a_fixed_range(backend: str, functions: tuple[Function, ...]) -> None:
    model = seeded(Joined, *functions)
    qmodel = qfx.quantize(model, X, backend=backend)
    assert sqnr(model(X), qmodel(X)) > 28
