"""One row: fbgemm's kernel computes what oneDNN's does, over the same codes."""

from __future__ import annotations

import copy
import gc
import math
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx.backends.onednn import single_rows
from qfx.backends.onednn.dynamic import quantize_dynamic
from qfx.backends.onednn.kernels import LINEAR_POST_OPS

needs_kernel = pytest.mark.skipif(
    not single_rows.pays(), reason="fbgemm's kernel saturates or is absent here"
)
ACTIVATIONS: dict[str, nn.Module] = {
    "none": nn.Identity(),
    "relu": nn.ReLU(),
    "hardtanh": nn.Hardtanh(-0.2, 0.3),
    "hardswish": nn.Hardswish(),
    "swish": nn.SiLU(),
    "gelu": nn.GELU(approximate="tanh"),
    "leaky_relu": nn.LeakyReLU(0.2),
    "tanh": nn.Tanh(),
}


class Gated(nn.Module):
    """Three layers, two of which read one value."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(24, 40), nn.Linear(24, 40), nn.Linear(40, 24)
        self.up.bias = None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))
        return y


class Adds(Gated):
    """A layer that adds what it is given takes codes only."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.gate(x)) + x
        return y


def quantized(model: nn.Module, rows: int = 6) -> Any:
    torch.manual_seed(0)
    return qfx.quantize(model.eval(), torch.randn(1, rows, 24), method="dynamic", backend="x86")


def singles(graph: fx.Graph) -> list[bool]:
    found = [node for node in graph.nodes if node.target is quantize_dynamic]
    return [node.kwargs.get("single", False) for node in found]


def used(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the rows that fbgemm is given from now on."""
    seen: list[tuple[int, ...]] = []
    kernel = single_rows._kernel

    def run(x: Tensor, *rest: Any) -> Any:
        seen.append(tuple(x.shape))
        return kernel(x, *rest)

    monkeypatch.setattr(single_rows, "_kernel", run)
    return seen


@needs_kernel
@pytest.mark.parametrize("shape", [(1, 24), (1, 1, 24), (1, 1, 1, 24)])
def test_a_row_alone_and_among_others(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = quantized(Gated())
    assert singles(model.graph) == [True, True]
    seen = used(monkeypatch)
    x = torch.randn(shape)
    y = model(x)
    assert len(seen) == 3
    assert y.shape == shape
    torch.testing.assert_close(y, model.reference(x))
    torch.testing.assert_close(y, model(torch.cat([x, x]))[:1])
    assert len(seen) == 3


@needs_kernel
@pytest.mark.parametrize("name", LINEAR_POST_OPS)
def test_post_ops(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantized(nn.Sequential(nn.Linear(24, 33), ACTIVATIONS[name]))
    seen, x = used(monkeypatch), torch.randn(1, 24)
    torch.testing.assert_close(model(x), model.reference(x))
    assert len(seen) == 1
    assert set(single_rows.POST_OPS) == set(LINEAR_POST_OPS)


@needs_kernel
def test_no_row_and_several_stay_with_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = quantized(Gated()), used(monkeypatch)
    assert model(torch.randn(1, 0, 24)).shape == (1, 0, 24)
    assert model(torch.randn(1, 2, 24)).shape == (1, 2, 24)
    assert seen == []


@needs_kernel
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_makes_nan(value: float) -> None:
    x = torch.randn(1, 24)
    x[0, 3] = value
    assert quantized(Gated())(x).isnan().all()


@needs_kernel
def test_a_row_that_lies_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = quantized(Gated()), used(monkeypatch)
    x = torch.randn(24, 3)[:, :1].t()
    assert x.stride() != (24, 1)
    torch.testing.assert_close(model(x), model(x.contiguous()))
    assert len(seen) == 6


@needs_kernel
def test_the_input_is_not_changed() -> None:
    model = quantized(nn.Sequential(nn.GELU(), nn.Linear(24, 8), nn.Linear(8, 8)))
    x = torch.randn(1, 24)
    before = x.clone()
    first = model(x)
    assert torch.equal(x, before)
    assert torch.equal(model(x), first)


@needs_kernel
def test_copies_pack_for_themselves_and_what_is_packed_goes_with_its_weight() -> None:
    model, x = quantized(Gated()), torch.randn(1, 24)
    gc.collect()
    before = len(single_rows._packed)
    expected = model(x)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(x), expected)
    assert before < len(single_rows._packed) <= before + 6
    del model, copied
    gc.collect()
    assert len(single_rows._packed) == before


@pytest.mark.parametrize("bounds", [(0, 127), (0, 255)])
def test_other_codes_are_rounded_as_ever(bounds: tuple[int, int]) -> None:
    x = torch.randn(1, 24)
    codes, *qparams = quantize_dynamic(x, *bounds)
    assert codes.dtype is torch.uint8
    left, *same = quantize_dynamic(x, *bounds, single=True)
    assert left is x
    assert same == qparams
    assert quantize_dynamic(torch.randn(2, 24), *bounds, single=True)[0].dtype is torch.uint8


@needs_kernel
def test_layers_that_add_get_codes() -> None:
    model, x = quantized(Adds()), torch.randn(1, 24)
    assert singles(model.graph) == [True, False]
    torch.testing.assert_close(model(x), model.reference(x))


@needs_kernel
def test_examples_of_one_row_are_checked_and_compared() -> None:
    float_model = Gated()
    model = quantized(float_model, rows=1)
    assert singles(model.graph) == [True, True]
    x = torch.randn(1, 1, 24)
    assert qfx.compare(float_model, model, [(x,)]).output.sqnr > 30
    qfx.bisect(float_model, model, [(x,)])
