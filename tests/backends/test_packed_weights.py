"""Weights packed wrongly, or for one use and read by another."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded, sqnr

X = randn(2, 4, 8, 8)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.relu(self.conv(x)), self.conv(x)


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
def test_one_weight_with_and_without_relu(backend: str) -> None:
    """What qnnpack packs clamps as its first call did."""
    model = seeded(Shared)
    qmodel = qfx.quantize(model, X, backend=backend)
    for expected, got in zip(model(X), qmodel(X), strict=True):
        assert sqnr(expected, got) > 30


class TwoUses(nn.Module):
    """One weight whose two results have the same qparams, with and without a fused relu."""

    def __init__(self, layer: nn.Module, relu_first: bool) -> None:
        super().__init__()
        self.layer, self.relu_first = layer, relu_first

    def forward(self, x: Tensor) -> Tensor:
        if self.relu_first:
            return torch.cat([torch.relu(self.layer(x)), self.layer(x)], 1)
        return torch.cat([self.layer(x), torch.relu(self.layer(x))], 1)


@pytest.mark.sweep
@pytest.mark.parametrize("relu_first", [True, False])
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
def test_one_linear_with_and_without_relu_measured(backend: str, relu_first: bool) -> None:
    """oneDNN calls again what it made for the first call of a packed weight."""
    model, x = seeded(lambda: TwoUses(nn.Linear(16, 16), relu_first)), randn(4, 16)
    qmodel = qfx.quantize(model, x, backend=backend, method="dynamic")
    assert sqnr(model(x), qmodel(x)) > 35


@pytest.mark.sweep
@pytest.mark.parametrize("make", [partial(nn.Linear, 16, 16), partial(nn.Conv2d, 4, 4, 3)])
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
def test_one_weight_with_and_without_relu_at_the_same_scale(
    backend: str, make: Callable[[], nn.Module]
) -> None:
    model = seeded(lambda: TwoUses(make(), relu_first=True))
    x = X if isinstance(model.layer, nn.Conv2d) else randn(4, 16)
    assert sqnr(model(x), qfx.quantize(model, x, backend=backend)(x)) > 30


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.linear.weight.t(), self.linear.bias)


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
def test_transposed_weight(backend: str) -> None:
    """oneDNN's prepack reads memory in order, whatever the strides."""
    model, x = seeded(Transposed), randn(4, 16)
    assert sqnr(model(x), qfx.quantize(model, x, backend=backend)(x)) > 30


class Upsample(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.up = nn.ConvTranspose2d(4, 8, 3, stride=2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(self.conv(x))
        return y


@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_transposed_convolution_on_qnnpack(groups: int) -> None:
    """It raised at run time: qnnpack found a requantization scale of 0 for the second group."""
    model = seeded(Upsample, groups)
    qmodel = qfx.quantize(model, X, backend="qnnpack")
    assert sqnr(model(X), qmodel(X)) > 25
    site = next(s for s in qmodel.report.sites if s.module_path == "up")
    assert (site.decision, site.kernel) == ("quantized", "quantized.conv2d")  # has no such fault
