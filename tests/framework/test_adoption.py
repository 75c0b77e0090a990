"""Passes that use plain fx, and nothing of qfx, work in a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

import qfx
from qfx import vocab
from qfx.graph import meta

BACKENDS = ["x86", "fbgemm", "reference"]
X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval()


def is_relu(node: fx.Node) -> bool:
    return node.target in ("1", vocab.RELU)


class Replace(qfx.Pass):
    """ReLUs by calls of something else, the way tutorials on fx do it."""

    name = "replace"
    keeps_values = False
    by: Callable[[fx.Graph, Any], fx.Node]

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        for node in filter(is_relu, list(graph.nodes)):
            with graph.inserting_after(node):
                made = self.by(graph, node.args[0])
            node.replace_all_uses_with(made)
            graph.erase_node(node)


def calls(function: Any) -> Callable[[fx.Graph, Any], fx.Node]:
    return lambda graph, read: graph.call_function(function, (read,))


def sine_of_double(graph: fx.Graph, read: Any) -> fx.Node:
    doubled = graph.call_function(vocab.MUL, (read, 2))
    with graph.inserting_after(doubled):
        return graph.call_method("sin", (doubled,))


@pytest.mark.sweep
@pytest.mark.parametrize("backend", [b for b in BACKENDS if b in qfx.backends.available()])
@pytest.mark.parametrize(
    ("at", "by", "function"),
    [
        ("insert_before", calls(F.gelu), F.gelu),
        ("insert_after", calls(vocab.GELU), F.gelu),
        ("insert_after", calls(torch.sin), torch.sin),
        ("insert_after", sine_of_double, lambda x: (x * 2).sin()),
    ],
)
def test_replaced(backend: str, at: str, by: Any, function: Any) -> None:
    model = net()
    pipeline = getattr(qfx.pipelines.static(), at)("canonicalize", Replace(by=by))
    qmodel = qfx.quantize(model, X, backend=backend, pipeline=pipeline)
    assert qmodel.report.coverage == 1
    assert [site.node for site in qmodel.report.sites] == ["_0", "_1", "_2"]
    assert not any(site.removed for site in qmodel.report.sites)
    with torch.no_grad():
        expected = model[2](function(model[0](X)))
    assert (qmodel(X) - expected).abs().max() < 0.05 * expected.abs().max()


class AddLayer(qfx.Pass):
    name = "add-layer"
    keeps_values = False

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        ctx.graph_module.add_module("more", nn.Linear(4, 4))
        for node in filter(is_relu, list(graph.nodes)):
            with graph.inserting_after(node):
                made = graph.call_module("more", (node,))
            node.replace_all_uses_with(made)
            made.args = (node,)


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b in qfx.backends.available()])
def test_an_added_layer_is_quantized(backend: str) -> None:
    pipeline = qfx.pipelines.static().insert_before("canonicalize", AddLayer())
    qmodel = qfx.quantize(net(), X, backend=backend, pipeline=pipeline)
    assert sum(site.macs for site in qmodel.report.sites) == 3 * 8 * 4 * 4
    assert qmodel.report.coverage == 1


def test_provenance_and_values() -> None:
    gm, history = qfx.run_passes(net(), [Replace(by=sine_of_double)], X)
    made = {n.name: n for n in gm.graph.nodes if meta.rule_of(n) == "replace"}
    assert list(made) == ["mul", "sin"]
    for node in made.values():
        assert [o.node for o in meta.origins(node)] == ["_1"]
        assert meta.tensor_info(node) == meta.TensorInfo((8, 4), torch.float32)
    assert "_1" in str(history.blame("sin"))


def looks_at_values(x: torch.Tensor) -> torch.Tensor:
    return x if x.sum() > 0 else -x


def test_what_cannot_be_inferred_stays_unknown_and_its_readers_float() -> None:
    pipeline = qfx.pipelines.static().insert_after("canonicalize", Replace(calls(looks_at_values)))
    report = qfx.quantize(net(), X, backend="reference", pipeline=pipeline).report
    last = report.sites[-1]
    assert (last.decision, last.reason) == ("float", "unsupported")
    assert "shape of what it reads is unknown" in last.message
    assert report.sites[0].decision == "quantized"


def test_a_node_that_plain_fx_would_not_erase_is_named() -> None:
    class Erase(qfx.Pass):
        name = "erase"

        def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
            graph.erase_node(next(n for n in graph.nodes if n.op == "call_function"))

    model = nn.Sequential(nn.ReLU(), nn.Tanh()).eval()
    with pytest.raises(qfx.PassError, match=r"pass erase \(at %_0\) raised RuntimeError") as found:
        qfx.run_passes(model, [Erase()], torch.ones(2))
    assert found.value.node == "_0"
