"""Casts are one operation, and none where nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import vocab
from qfx.testing.checking import assert_close, run
from qfx_passes.canonical.canonicalize import Canonicalize
from tests.cases.flow import randn, seeded, sqnr
from tests.passes.canonical.canonical_forms import Lambda, check_family, image

X = randn(2, 3, 8, 8)


class Cast(nn.Module):
    def __init__(self, cast: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.cast = cast

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.cast(self.first(x)))


NOTHING: dict[str, Callable[[Tensor], Tensor]] = {
    "float": lambda y: y.float(),
    "to": lambda y: y.to(torch.float32),
    "to by keyword": lambda y: y.to(dtype=torch.float32, non_blocking=True),
    "to its own": lambda y: y.to(y.dtype),
    "to device and dtype": lambda y: y.to(y.device, y.dtype),
    "to like": lambda y: y.to(y * 2),
    "type_as": lambda y: y.type_as(y * 2),
    "type": lambda y: y.type(torch.float32),
    "device": lambda y: y.to(device=y.device),
}
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "half and back": lambda y: y.half().float(),
    "double": lambda y: y.to(torch.float64).to(y.dtype),
    "like": lambda y: (y > 0).to(y) * y,
    "integers": lambda y: (y * 4).to(torch.int32).type_as(y),
}


def called(model: nn.Module) -> list[Any]:
    graph = run(Canonicalize(), model, X).graph_module
    with torch.no_grad():
        assert_close([graph(X)], [model(X)])
    return [n.target for n in graph.graph.nodes if n.op.startswith("call_")]


@pytest.mark.parametrize("name", NOTHING)
def test_what_changes_nothing_goes(name: str) -> None:
    model = seeded(Cast, NOTHING[name])
    targets = [t for t in called(model) if t not in (vocab.MUL, vocab.DTYPE, vocab.DEVICE)]
    assert targets == [vocab.CONV2D, vocab.CONV2D]
    assert qfx.quantize(model, X).report.coverage == 1.0


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_is_a_cast(name: str) -> None:
    model = seeded(Cast, CHANGES[name])
    assert vocab.CAST in called(model)
    quantized = qfx.quantize(model, X)
    assert not [s for s in quantized.report.sites if s.reason == "unknown-op" and s.op == "to"]
    with torch.no_grad():
        assert sqnr(model(X), quantized(X)) > 20


KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "a device by name": lambda y: y.to("cpu"),
    "a copy": lambda y: y.to(torch.float32, copy=True),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_may_do_more_stays(name: str) -> None:
    model = seeded(Cast, KEPT[name])
    assert "to" in called(model)
    reasons = [s.reason for s in qfx.quantize(model, X).report.sites if s.op == "to"]
    assert reasons == ["unknown-form"]


def test_an_argument_may_come_from_another_device() -> None:
    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.to(self.linear.weight.device))

    assert "to" in called(seeded(Moved))


BEFORE = """\
%x       : f32[2,3] = input
%float_1 : f32[2,3] = .float(%x)
%to      : f64[2,3] = .to(%x, f64)
%add     : f64[2,3] = operator.add(%float_1, %to)
return %add
"""

AFTER = """\
%x   : f32[2,3] = input
%to  : f64[2,3] = cast(%x, dtype=f64)
%add : f64[2,3] = add(%x, %to)
return %add
"""

LEFT_OUT = """\
%x       : f32[2,3] = input
%float_1 : f32[2,3] = .float(%x)
%to      : f64[2,3] = .to(%x, f64)
%add     : f64[2,3] = add(%float_1, %to)
return %add
"""


def test_before_and_after() -> None:
    model = Lambda(lambda m, x: x.float() + x.to(torch.float64))
    check_family("casts", model, image(2, 3), BEFORE, AFTER, LEFT_OUT)
