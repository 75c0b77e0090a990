"""What quantizing may overwrite: values that it alone reads, in memory of their own."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import qfx
from qfx.backends.onednn import kernels
from qfx.backends.onednn.dynamic import quantize_dynamic
from qfx.numerics.measures import sqnr
from tests.cases.flow import randn, run, seeded
from tests.passes.stages import change

Use = Callable[[nn.ModuleList, Tensor], Tensor]


class Layers(nn.Module):
    """Layers, and how they are used."""

    def __init__(self, use: Use) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.norm = nn.LayerNorm(8)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.layers, x)


def overwrites(graph: fx.Graph) -> list[bool]:
    """Of every node that quantizes, whether it overwrites."""
    quantizing = (kernels.quantize, quantize_dynamic)
    found = [node for node in graph.nodes if node.target in quantizing]
    return [node.kwargs.get("overwrite", False) for node in found]


def _twice(layers: nn.ModuleList, x: Tensor) -> Tensor:
    y = F.gelu(x)
    return F.silu(layers[0](y)) * y


def _viewed(layers: nn.ModuleList, x: Tensor) -> Tensor:
    y = torch.softmax(x, -1).transpose(0, 1)
    return layers[0](y.reshape(-1, 8))


def _read_midway(layers: nn.ModuleList, x: Tensor) -> Tensor:
    y = torch.softmax(x, -1).reshape(-1, 8)
    return layers[0](y.unsqueeze(0)) * y


def _seen_before(layers: nn.ModuleList, x: Tensor) -> Tensor:
    y = torch.softmax(x, -1)
    row = y[:, 0]
    return layers[0](y.flatten(0, 1)) * row.sum()


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["dynamic", "static"])
@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (lambda layers, x: layers[0](x), [False]),
        (lambda layers, x: layers[0](x.flatten(0, 1)), [False]),
        (lambda layers, x: layers[0](F.gelu(x)), [True]),
        (_viewed, [True]),
        (_twice, [False]),
        (_seen_before, [False]),
        (_read_midway, [False]),
    ],
)
def test_inputs_and_what_others_read_stay(method: str, use: Use, expected: list[bool]) -> None:
    x = randn(2, 5, 8)
    before = x.clone()
    model = seeded(Layers, use)
    qmodel = qfx.quantize(model, x, method=method, backend="x86")
    assert sqnr(run(model, (x,)), run(qmodel, (x,))) > 20
    assert overwrites(qmodel.graph) == expected
    first = run(qmodel, (x,))
    with torch.no_grad():
        assert torch.equal(qmodel(x), first)
    assert torch.equal(x, before)


def test_what_lies_in_memory_more_than_once_stays() -> None:
    model = seeded(Layers, lambda layers, x: layers[0](F.gelu(x).expand(3, 2, 5, 8)))
    x = randn(2, 5, 8)
    qmodel = qfx.quantize(model, x, method="dynamic", backend="x86")
    assert overwrites(qmodel.graph) == [False]
    assert sqnr(run(model, (x,)), run(qmodel, (x,))) > 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_do_not_depend_on_what_is_overwritten(dtype: torch.dtype) -> None:
    x = randn(4, 33).to(dtype).t()
    expected = kernels.quantize(x, 0.1, 7)
    spare = x.clone()
    assert torch.equal(kernels.quantize(spare, 0.1, 7, overwrite=True), expected)
    assert torch.equal(spare, x) is (dtype is not torch.float32)
    measured = quantize_dynamic(x.float())
    codes, *qparams = quantize_dynamic(x.float(), overwrite=True)
    assert torch.equal(codes, measured[0])
    assert tuple(qparams) == measured[1:]


@pytest.mark.parametrize("seed", range(20))
def test_ties_go_the_same_way(seed: int) -> None:
    """Whole numbers over a step that divides them: a rounding error decides."""
    torch.manual_seed(seed)
    x = torch.randint(-99, 99, (3, 41)).float()
    scale, zero_point = float(torch.rand(()) + 0.1), seed * 12
    expected = kernels.quantize(x, scale, zero_point)
    assert torch.equal(kernels.quantize(x.clone(), scale, zero_point, overwrite=True), expected)


def test_values_that_gradients_are_asked_of_stay() -> None:
    x = randn(3, 4)
    leaf = x.clone().requires_grad_()
    assert torch.equal(kernels.quantize(leaf, 0.1, 7, overwrite=True), kernels.quantize(x, 0.1, 7))
    assert torch.equal(leaf.detach(), x)


def test_inputs_that_want_gradients_run_as_others() -> None:
    """softmax keeps its result for its gradient, so that it may not be overwritten."""
    model = seeded(Layers, lambda layers, x: layers[0](torch.softmax(x, -1)))
    qmodel = qfx.quantize(model, randn(2, 5, 8), method="dynamic", backend="x86")
    x = randn(2, 5, 8).requires_grad_()
    assert torch.equal(qmodel(x), run(qmodel, (x.detach(),)))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_function_transforms_take_what_overwrites() -> None:
    qmodel = qfx.quantize(
        seeded(Layers, lambda layers, x: layers[0](F.gelu(x))), randn(4, 8), backend="x86"
    )
    assert overwrites(qmodel.graph) == [True]
    x = randn(3, 4, 8)
    with torch.no_grad():
        assert torch.equal(torch.func.vmap(qmodel)(x), torch.stack([qmodel(each) for each in x]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_default_dtype_changes_nothing(dtype: torch.dtype) -> None:
    x = randn(4, 33)
    expected = kernels.quantize(x, 0.1, 7)
    torch.set_default_dtype(dtype)
    try:
        assert torch.equal(kernels.quantize(x, 0.1, 7), expected)
        assert torch.equal(kernels.quantize(x.clone(), 0.1, 7, overwrite=True), expected)
    finally:
        torch.set_default_dtype(torch.float32)


AFTER = """\
- %softmax_7 : (u8[2,3,8], _, _) = quantize_dynamic(%softmax, 0, N, False, False)
+ %softmax_7 : (u8[2,3,8], _, _) = quantize_dynamic(%softmax, 0, N, False, False, overwrite=True)
"""


def test_the_graph_before_and_after() -> None:
    model = seeded(lambda: Layers(lambda layers, x: layers[0](torch.softmax(x, -1))))
    stages = qfx.quantize(model, randn(2, 3, 8), method="dynamic", backend="x86").history
    shown = re.sub("127|255", "N", change(stages, "overwrite-operands"))
    assert shown.replace("qfx.backends.onednn.dynamic.", "") == AFTER
