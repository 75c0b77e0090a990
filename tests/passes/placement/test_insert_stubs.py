from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qfx import DeQuantStub, QuantStub, vocab
from qfx.graph import meta
from qfx.testing import check
from qfx.testing.checking import run
from qfx_passes.canonical.canonicalize import Canonicalize
from qfx_passes.placement.insert_stubs import InsertStubs
from qfx_passes.placement.quantized_region import QuantizedRegion


class Model(nn.Module):
    """``function(model, *inputs)``, with what it may use."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.conv, self.fc = nn.Conv2d(3, 3, 1), nn.Linear(8, 8)
        self.embedding = nn.Embedding(10, 8)
        self.quant, self.quant2, self.dequant = QuantStub(), QuantStub(), DeQuantStub()
        self.scale = nn.Parameter(torch.randn(8))
        self.relu = nn.ReLU()

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


class OneInput(Model):
    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class TwoInputs(Model):
    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.function(self, x, y)


IMAGE = torch.randn(1, 3, 8, 8)


def inside(graph: fx.Graph) -> set[str]:
    return {node.name for node in QuantizedRegion(graph).nodes(graph)}


def region(model: nn.Module, *inputs: Tensor) -> set[str]:
    """Names in the region; the same before and after the pass."""
    before = run(Canonicalize(), model.eval(), inputs or (IMAGE,))
    after = run(InsertStubs(), model.eval(), inputs or (IMAGE,))
    names = inside(before.graph_module.graph)
    assert names == inside(after.graph_module.graph)
    return names


def stubs(model: nn.Module, *inputs: Tensor) -> list[str]:
    """What each stub reads, after the pass: "quant(x)"."""
    result = check(InsertStubs(), model.eval(), inputs or (IMAGE,))
    names = {vocab.QUANT_STUB: "quant", vocab.DEQUANT_STUB: "dequant"}
    nodes = result.graph_module.graph.nodes
    return [f"{names[n.target]}({n.args[0]})" for n in nodes if n.target in names]


def test_whole_graph() -> None:
    check(
        InsertStubs(),
        OneInput(lambda m, x: F.relu(m.conv(x))).eval(),
        IMAGE,
        fired=0,
        after="""
            %x      : f32[1,3,8,8] = input
            %x_1    : f32[1,3,8,8] = quant_stub(%x)
            %conv   : f32[1,3,8,8] = conv2d(%x_1, @conv.weight, @conv.bias)
            %relu   : f32[1,3,8,8] = relu(%conv)
            %relu_2 : f32[1,3,8,8] = dequant_stub(%relu)
            return %relu_2
        """,
    )


def test_whole_graph_is_the_region() -> None:
    model = OneInput(lambda m, x: m.fc(m.embedding(x)).relu())
    assert region(model, torch.tensor([[1, 2]])) == {"embedding", "fc", "relu"}


def test_one_stub_for_an_input_read_twice() -> None:
    assert stubs(OneInput(lambda m, x: m.conv(x) + x)) == ["quant(x)", "dequant(add)"]


def test_integer_inputs_and_outputs_get_none() -> None:
    def function(m: Model, tokens: Tensor) -> tuple[Tensor, Tensor]:
        y = m.fc(m.embedding(tokens))
        return y, y.argmax(-1)

    assert stubs(OneInput(function), torch.tensor([[1, 2]])) == ["dequant(fc)"]


def test_input_that_no_operation_reads_gets_none() -> None:
    """Near-miss: a size is asked of it, and it is returned."""

    def function(m: Model, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return m.conv(x).reshape(y.size(0), -1), y

    names = stubs(TwoInputs(function), IMAGE, torch.randn(1, 2))
    assert names == ["quant(x)", "dequant(reshape)"]


def test_output_that_is_also_read_inside() -> None:
    """Only the output reads through the stub."""

    def function(m: Model, x: Tensor) -> dict[str, Tensor]:
        y = m.conv(x)
        return {"y": y, "z": m.relu(y)}

    result = check(InsertStubs(), OneInput(function).eval(), IMAGE)
    (relu,) = (n for n in result.graph_module.graph.nodes if n.target is vocab.RELU)
    assert relu.args[0].target is vocab.CONV2D
    assert len([n for n in result.graph_module.graph.nodes if n.target is vocab.DEQUANT_STUB]) == 2


def test_is_idempotent() -> None:
    once = run(InsertStubs(), OneInput(lambda m, x: m.conv(x)).eval(), IMAGE)
    twice = run([InsertStubs(), InsertStubs()], OneInput(lambda m, x: m.conv(x)).eval(), IMAGE)
    assert once.text == twice.text


def test_stubs_have_values_and_origins() -> None:
    result = run(InsertStubs(), OneInput(lambda m, x: m.conv(x)).eval(), IMAGE)
    for node in result.graph_module.graph.nodes:
        if node.target in (vocab.QUANT_STUB, vocab.DEQUANT_STUB):
            assert meta.tensor_info(node) == meta.TensorInfo((1, 3, 8, 8), torch.float32)
            assert meta.rule_of(node) == "insert-stubs"


# -- by hand ---------------------------------------------------------------------------------------


def both(m: Model, x: Tensor) -> Tensor:
    return torch.tanh(m.dequant(m.relu(m.conv(m.quant(torch.sigmoid(x))))))


def test_region_lies_between_stubs_by_hand() -> None:
    model = OneInput(both)
    assert region(model) == {"conv", "relu"}
    assert stubs(model) == ["quant(sigmoid)", "dequant(relu)"]


def test_only_quant_stub_reaches_the_outputs() -> None:
    model = OneInput(lambda m, x: m.relu(m.conv(m.quant(torch.sigmoid(x)))))
    assert region(model) == {"conv", "relu"}
    assert stubs(model) == ["quant(sigmoid)", "dequant(relu)"]


def test_only_dequant_stub_begins_at_the_inputs() -> None:
    model = OneInput(lambda m, x: m.relu(m.dequant(m.conv(x))))
    assert region(model) == {"conv"}
    assert stubs(model) == ["quant(x)", "dequant(conv)"]


def test_only_dequant_stub_behind_an_embedding() -> None:
    model = OneInput(lambda m, x: m.relu(m.dequant(m.fc(m.embedding(x)))))
    assert region(model, torch.tensor([[1, 2]])) == {"embedding", "fc"}


def test_two_regions() -> None:
    def function(m: Model, x: Tensor) -> Tensor:
        y = torch.tanh(m.dequant(m.conv(m.quant(x))))
        return m.dequant(m.relu(m.quant2(y)))

    assert region(OneInput(function)) == {"conv", "relu"}


def test_operand_from_outside_keeps_an_operation_float() -> None:
    model = OneInput(lambda m, x: m.dequant(m.relu(m.conv(m.quant(x)) + x)))
    assert region(model) == {"conv"}


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.dequant(m.quant(x) * m.scale),
        lambda m, x: m.dequant(m.quant(x) * (m.scale + 1)),
        lambda m, x: m.dequant(m.quant(x) * torch.ones(8)),
        lambda m, x: m.dequant(m.quant(x) * 2.0),
        lambda m, x: m.dequant(m.quant(x).reshape(x.size(0), -1)),
    ],
)
def test_constants_and_shapes_take_no_side(function: Callable[..., Tensor]) -> None:
    model = OneInput(function)
    inside = region(model, torch.randn(4, 8))
    assert len({n for n in inside if n.startswith(("mul", "reshape"))}) == 1


def test_list_operand_with_one_from_outside() -> None:
    model = OneInput(lambda m, x: m.dequant(torch.cat([m.conv(m.quant(x)), x])))
    assert region(model) == {"conv"}


def test_chunks_stay_inside() -> None:
    def function(m: Model, x: Tensor) -> Tensor:
        a, b = m.conv(m.quant(x)).chunk(2, dim=2)
        return m.dequant(a + b)

    assert region(OneInput(function)) == {"conv", "chunk", "getitem", "getitem_1", "add"}


def test_stubs_of_torch_ao_count() -> None:
    """Recognised by qualified name: nothing is imported."""

    class Foreign(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    quant = type("QuantStub", (Foreign,), {"__module__": "torch.ao.quantization.stubs"})
    dequant = type("DeQuantStub", (Foreign,), {"__module__": "torch.ao.quantization.stubs"})
    model = OneInput(both)
    model.quant, model.dequant = quant(), dequant()
    assert region(model) == {"conv", "relu"}
