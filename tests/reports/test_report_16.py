"""Padding with -inf in front of a max pool was a CalibrationError: infinite values.

With -1e4 or the least number of the dtype in its place, the range reached as far, and the result
was off by 100 % without a word.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded, sqnr, step

BACKENDS = ("x86", "fbgemm", "qnnpack", "reference")
FILLS: dict[str, Callable[[Tensor], float]] = {
    "-inf": lambda y: -math.inf,
    "least": lambda y: torch.finfo(y.dtype).min,
    "-1e4": lambda y: -1e4,
}
X, OTHER = randn(2, 3, 16, 16), randn(1, 3, 13, 22)


class SamePooled(nn.Module):
    """As timm pads: as much as keeps ``ceil(size / stride)`` windows."""

    def __init__(self, fill: Callable[[Tensor], float]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3)
        self.fill = fill

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x) - 3.0  # all below zero: a padding of zeros would win every maximum
        across = max((-(-y.shape[-1] // 2) - 1) * 2 + 3 - y.shape[-1], 0)
        down = max((-(-y.shape[-2] // 2) - 1) * 2 + 3 - y.shape[-2], 0)
        y = F.pad(
            y,
            (across // 2, across - across // 2, down // 2, down - down // 2),
            value=self.fill(y),
        )
        return self.last(F.max_pool2d(y, 3, 2))


@pytest.mark.sweep
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fill", FILLS)
def test_same_pooling(fill: str, backend: str) -> None:
    model = seeded(SamePooled, FILLS[fill])
    quantized = qfx.quantize(model, X, backend=backend)
    assert quantized.report.coverage == 1.0
    assert [s.decision for s in quantized.report.sites if "pool" in s.node] == ["quantized"]
    with torch.no_grad():
        assert sqnr(model(X), quantized(X)) > 28
        assert torch.equal(quantized(X), quantized.reference(X)) or backend in ("x86", "fbgemm")


@pytest.mark.parametrize("backend", BACKENDS)
def test_pads_exactly(backend: str) -> None:
    """The pool picks the very codes that its input has."""

    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.conv(F.max_pool2d(F.pad(x, (1, 2, 2, 1), value=-math.inf), 3)))

    model = seeded(Pool)
    quantized = qfx.quantize(model, X, backend=backend)
    padded = F.pad(X, (1, 2, 2, 1), value=-math.inf)
    unpadded = qfx.quantize(model.conv, F.max_pool2d(padded, 3), backend=backend)
    with torch.no_grad():
        assert sqnr(model(X), quantized(X)) > 30
        assert sqnr(unpadded(F.max_pool2d(padded, 3)).relu(), quantized(X)) > 30
        off = (quantized(X) - quantized.reference(X)).abs().max()
        assert off <= step(quantized) * 1.001


def test_training() -> None:
    model = seeded(SamePooled, FILLS["-inf"])
    prepared = qfx.prepare(model, X, method="qat")
    prepared.train()
    for _ in range(2):
        loss = prepared(X).square().mean()
        loss.backward()
    assert torch.isfinite(prepared.get_parameter("first.weight").grad).all()
    quantized = qfx.convert(prepared)
    with torch.no_grad():
        assert sqnr(model(X), quantized(X)) > 25


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_pool_does_not_read_at_once(backend: str) -> None:
    """Where padding can't be fused it stays float, and says so."""

    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = F.pad(self.first(x), (1, 1, 1, 1), value=-math.inf)
            return self.last(F.max_pool2d(y[:, :, 1:], 3, 2))

    model = seeded(Between)
    quantized = qfx.quantize(model, X, backend=backend)
    assert quantized.report.coverage == 1.0
    (site,) = [s for s in quantized.report.sites if s.node == "max_pool2d"]
    assert site.reason == "filled"
    assert "fills what it reads with numbers too large for any scale" in site.message
    with torch.no_grad():
        assert sqnr(model(X), quantized(X)) > 30


@pytest.mark.parametrize("backend", BACKENDS)
def test_masked_before_a_pool(backend: str) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv1d(4, 8, 3, padding=1), nn.Conv1d(8, 8, 1)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            y = self.first(x).masked_fill(mask.unsqueeze(1), -1e9)
            return self.last(F.max_pool1d(y, 4))

    model = seeded(Masked)
    inputs = randn(2, 4, 16), torch.arange(16).expand(2, 16) % 4 == 1
    quantized = qfx.quantize(model, inputs, backend=backend)
    with torch.no_grad():
        assert sqnr(model(*inputs), quantized(*inputs)) > 30
