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


LEAST = torch.finfo(torch.float32).min
MASKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "where, of a number": lambda y, m: torch.where(m, y, torch.finfo(y.dtype).min),
    "where, of a tensor": lambda y, m: torch.where(m, y, torch.tensor(-math.inf)),
    "method where": lambda y, m: y.where(m, y.new_tensor(-math.inf)),
    "added": lambda y, m: y + torch.zeros_like(y).masked_fill(~m, -math.inf),
    "1 - mask": lambda y, m: y + (1.0 - m.float()) * -1e9,
    "mask - 1": lambda y, m: y * m + (m.float() - 1) * 1e30,
    "whole numbers": lambda y, m: y + (1.0 - m.long()) * LEAST,
    "alpha": lambda y, m: torch.add(y, (~m).float(), alpha=-1e9),
    "subtracted": lambda y, m: y - (~m) * 1e9,
    "logarithm": lambda y, m: y + m.float().log(),
    "scaled, moved": lambda y, m: -(-y.masked_fill(~m, -1e9) * 2 + 1),
    "scattered": lambda y, m: y.masked_scatter(~m.expand_as(y), torch.full_like(y, -math.inf)),
    "nan": lambda y, m: torch.where(m, y, torch.tensor(math.nan)).nan_to_num(nan=-1e9),
}


class MaskedMaximum(nn.Module):
    """A maximum over the words that there are, as classifiers of texts take it."""

    def __init__(self, mask: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.mask = mask

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        return self.last(self.mask(self.first(x), there[..., None]).amax(1))


WORDS = randn(2, 6, 8), torch.arange(6).expand(2, 6) < torch.tensor([[4], [6]])
MORE = randn(3, 9, 8), torch.arange(9).expand(3, 9) < torch.tensor([[1], [9], [5]])


@pytest.mark.sweep
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MASKS)
def test_however_it_is_masked(name: str, backend: str) -> None:
    model = seeded(MaskedMaximum, MASKS[name])
    quantized = qfx.quantize(model, WORDS, backend=backend, calibration_data=[WORDS, MORE])
    assert quantized.report.coverage == 1.0
    with torch.no_grad():
        for inputs in (WORDS, MORE):
            assert sqnr(model(*inputs), quantized(*inputs)) > 30


@pytest.mark.parametrize("name", ["where, of a tensor", "1 - mask", "mask - 1"])
def test_however_it_is_masked_in_training(name: str) -> None:
    model = seeded(MaskedMaximum, MASKS[name])
    prepared = qfx.prepare(model, WORDS, method="qat").train()
    prepared(*WORDS).square().mean().backward()
    assert torch.isfinite(prepared.get_parameter("first.weight").grad).all()
    quantized = qfx.convert(prepared.eval())
    with torch.no_grad():
        assert sqnr(model(*WORDS), quantized(*WORDS)) > 25


@pytest.mark.parametrize("fill", [-math.inf, -1e9])
def test_a_mask_that_is_a_buffer(fill: float) -> None:
    class Causal(MaskedMaximum):
        def __init__(self) -> None:
            super().__init__(torch.add)
            self.register_buffer("until", torch.triu(torch.full((16, 16), fill), 1))

        def forward(self, x: Tensor) -> Tensor:
            n = x.shape[1]
            return self.last((self.first(x)[:, None] + self.until[:n, :n, None]).amax(2))

    model = seeded(Causal)
    for backend in ("x86", "fbgemm"):
        data = [WORDS[0], MORE[0]]
        quantized = qfx.quantize(model, data[0], backend=backend, calibration_data=data)
        (site,) = [s for s in quantized.report.sites if s.node == "add"]
        assert site.reason in ("filled", "no-kernel")
        with torch.no_grad():
            assert sqnr(model(MORE[0]), quantized(MORE[0])) > 25


def test_large_values_are_none_of_a_mask() -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.last((self.first(x) * 2e4).relu() / 2e4)

    made = qfx.quantize(seeded(Large), WORDS[0], backend="fbgemm")
    assert not [s for s in made.report.sites if s.reason == "filled"]
