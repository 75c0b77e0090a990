"""What a pass makes and nothing reads is an error at every level; what the user wrote is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import qfx


class Unread(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x.sigmoid()
        return x.relu()


def relu_of(graph: fx.Graph) -> fx.Node:
    return next(n for n in graph.nodes if "relu" in n.name)


class Plain(qfx.Pass):
    name = "plain"
    level: str = "any"

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        node = relu_of(graph)
        with graph.inserting_after(node):
            graph.call_function(torch.neg, (node,))


class AsWritten(Plain):
    name = "as-written"
    requires = qfx.Level.CAPTURED


class Gate(qfx.Pass):
    name = "gate"
    requires = qfx.Level.CAPTURED

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        ctx.rewriter.call(torch.neg, relu_of(graph))


@pytest.mark.parametrize("step", [Plain(), AsWritten(), Gate()], ids=str)
def test_left_over(step: qfx.Pass) -> None:
    with pytest.raises(qfx.PassError, match=f"pass {step.name} .*is read by nothing") as caught:
        qfx.run_passes(Unread(), [step], torch.randn(3))
    assert caught.value.node == "neg" or caught.value.node.startswith("relu")


class Nothing(qfx.Pass):
    name = "nothing"
    requires = qfx.Level.CAPTURED

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        pass


def test_what_the_user_wrote_may_be_unread() -> None:
    _, history = qfx.run_passes(Unread(), [Nothing()], torch.randn(3))
    assert "sigmoid" in history[-1].snapshot
