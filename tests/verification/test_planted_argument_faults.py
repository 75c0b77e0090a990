"""Passes that change what a model does to its arguments are found at convert, and named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx.framework.pass_context import PassContext
from tests.cases.flow import randn, seeded


class Writes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x.add_(1)
        return self.linear(x)


class Reads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + 1


def _drop(graph: fx.Graph) -> None:
    for node in graph.find_nodes(op="call_method", target="copy_"):
        graph.erase_node(node)


def _copy_other(graph: fx.Graph) -> None:
    (node,) = graph.find_nodes(op="call_method", target="copy_")
    with graph.inserting_before(node):
        other = graph.call_method("neg", (node.args[1],))
    other.meta.update(node.args[1].meta)
    node.args = (node.args[0], other)


def _write(graph: fx.Graph) -> None:
    (node,) = graph.find_nodes(op="placeholder")
    with graph.inserting_before(next(iter(reversed(graph.nodes)))):
        written = graph.call_method("zero_", (node,))
    written.meta.update(node.meta)


class Meddles(qfx.Pass):
    name = "meddles"
    how: str = ""

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        FAULTS[self.how][1](graph)


FAULTS: dict[str, tuple[type[nn.Module], Callable[[fx.Graph], None]]] = {
    "drop": (Writes, _drop),
    "copy other": (Writes, _copy_other),
    "write": (Reads, _write),
}


@pytest.mark.parametrize("how", FAULTS)
@pytest.mark.parametrize("place", ["canonicalize", "reference"])
def test_the_pass_is_named(how: str, place: str) -> None:
    pipeline = qfx.pipelines.static().insert_after(place, Meddles(how=how))
    with pytest.raises(qfx.PassError, match=r"meddles.*changes what the model computes"):
        qfx.quantize(seeded(FAULTS[how][0]), randn(8, 4), backend="reference", pipeline=pipeline)


@pytest.mark.parametrize("how", FAULTS)
def test_run_passes(how: str) -> None:
    with pytest.raises(qfx.PassError, match="meddles"):
        qfx.run_passes(
            seeded(FAULTS[how][0]), [qfx.get_pass("canonicalize")(), Meddles(how=how)], randn(8, 4)
        )


@pytest.mark.parametrize("how", FAULTS)
def test_lowering(how: str) -> None:
    pipeline = qfx.pipelines.static(backend="x86").insert_after("lower", Meddles(how=how))
    with pytest.raises(qfx.PassError, match="meddles"):
        qfx.quantize(seeded(FAULTS[how][0]), randn(8, 4), backend="x86", pipeline=pipeline)


def test_what_is_meant_passes() -> None:
    model, x = seeded(Writes), randn(8, 4)
    wanted, left = x.clone(), x.clone()
    qmodel = qfx.quantize(model, x, backend="reference")
    assert vocab.ADD in {node.target for node in qmodel.graph.nodes}
    model(wanted), qmodel(left)
    torch.testing.assert_close(left, wanted, atol=0.05, rtol=0)
