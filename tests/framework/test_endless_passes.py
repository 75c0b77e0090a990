"""A plain pass that would go on for ever is an error that names it and the node."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import fx, nn

import qfx
from qfx import vocab

X = torch.randn(2, 4)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("qfx.rewrite.ledger"), "_MOST_CHANGES", 300)
    monkeypatch.setattr(import_module("qfx.rewrite.ledger"), "_MOST_PER_NODE", 1)


class BackAndForth(qfx.Pass):
    name = "back-and-forth"
    requires = qfx.Level.CANONICAL

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        rw, other = ctx.rewriter, {vocab.RELU: vocab.TANH, vocab.TANH: vocab.RELU}
        while found := [node for node in graph.nodes if node.target in other]:
            for node in found:
                with rw.at(node):
                    rw.replace(node, rw.call(other[node.target], *node.args))


class Updates(qfx.Pass):
    name = "updates"
    requires = qfx.Level.CANONICAL

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        (relu,) = (node for node in graph.nodes if node.target is vocab.RELU)
        while True:
            ctx.rewriter.update(relu, args=relu.args)


@pytest.mark.parametrize("kind", [BackAndForth, Updates])
def test_a_pass_without_an_end_is_told(kind: type[qfx.Pass]) -> None:
    with pytest.raises(qfx.PassError, match="does not come to an end: it goes on") as caught:
        qfx.run_passes(nn.ReLU(), [kind()], X)
    assert (caught.value.pass_name, caught.value.node) == (kind.name, "relu")
    assert caught.value.graph_module is not None


def test_one_that_makes_much_at_each_node_is_none() -> None:
    class Long(qfx.Pass):
        name = "long"
        requires = qfx.Level.CANONICAL

        def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
            (relu,) = (node for node in graph.nodes if node.target is vocab.RELU)
            made = relu
            with ctx.rewriter.at(relu.next):
                for _ in range(100):
                    made = ctx.rewriter.call(vocab.RELU, made)
            ctx.rewriter.replace(relu, made)

    gm, _ = qfx.run_passes(nn.ReLU(), [Long()], X)
    assert sum(node.target is vocab.RELU for node in gm.graph.nodes) > 99
