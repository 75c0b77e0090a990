"""Analyses: computed when asked for, dropped when the graph changes, kept by who can learn."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, fx, nn
from typing_extensions import Self

import qfx
from qfx import vocab
from qfx.framework.pass_context import PassContext
from qfx.rewrite import Analysis, Any, Match, Op, Rewriter, rewrite


class Net(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(torch.relu(torch.relu(x)))


X = torch.ones(2, 3)


class Names(Analysis):
    """The names of all nodes."""

    computed: ClassVar[int] = 0

    def __init__(self, names: list[str]) -> None:
        type(self).computed += 1
        self.names = names

    @classmethod
    def of(cls, graph_module: fx.GraphModule) -> Self:
        return cls([node.name for node in graph_module.graph.nodes])


class Learned(Names):
    """The same, kept up to date."""

    computed: ClassVar[int] = 0

    def learn(self, node: fx.Node) -> bool:
        self.names.append(node.name)
        return True


@rewrite(Op(vocab.RELU, Any("x"), bind="relu"))
def to_clamp(match: Match, rw: Rewriter) -> fx.Node:
    assert match["relu"].name in rw.analysis(Names).names
    assert match["relu"].name in rw.analysis(Learned).names
    return rw.call(vocab.CLAMP, match["x"], min=rw.get(ToClamp).least)


class ToClamp(qfx.PatternPass):
    name = "to-clamp"
    requires = qfx.Level.CANONICAL
    patterns = (to_clamp,)
    least: float = 0.0


class Asks(qfx.Pass):
    name = "asks"
    requires = qfx.Level.CANONICAL

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        assert ctx.analysis(Names).names == [node.name for node in graph.nodes]


def counted(*passes: qfx.Pass) -> tuple[int, int]:
    """How often each analysis was computed."""
    before = Names.computed, Learned.computed
    qfx.run_passes(Net(), passes, X)
    return Names.computed - before[0], Learned.computed - before[1]


def test_it_is_computed_once_while_the_graph_stays() -> None:
    assert counted(Asks(), Asks(), Asks()) == (1, 0)


def test_it_is_dropped_when_a_rule_changes_the_graph_unless_it_learns() -> None:
    assert counted(ToClamp()) == (2, 1)


def test_it_is_dropped_when_a_pass_has_changed_the_graph() -> None:
    assert counted(Asks(), ToClamp(), Asks()) == (3, 1)


def test_a_change_beside_the_gate_drops_it_too() -> None:
    class Renames(qfx.Pass):
        name = "renames"
        requires = qfx.Level.CANONICAL

        def run(self, graph: fx.Graph, ctx: PassContext) -> None:
            next(iter(graph.nodes)).name = "other"

    assert counted(Asks(), Renames(), Asks()) == (2, 0)


def test_rules_read_the_options_of_their_pass() -> None:
    gm, _ = qfx.run_passes(Net(), [ToClamp(least=0.0)], X)
    mins = [vocab.bound(n)["min"] for n in gm.graph.nodes if vocab.is_op(n, vocab.CLAMP)]
    assert mins == [0.0, 0.0]
    gm, _ = qfx.run_passes(Net(), [ToClamp(least=0.5)], X, check=False)
    mins = [vocab.bound(n)["min"] for n in gm.graph.nodes if vocab.is_op(n, vocab.CLAMP)]
    assert mins == [0.5, 0.5]
