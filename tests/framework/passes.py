"""A small model and passes over it, for tests of what runs passes."""

from collections.abc import Callable

import torch
from torch import fx, nn

from qfx import vocab
from qfx.framework.pass_base import Pass, PatternPass
from qfx.framework.pass_context import PassContext
from qfx.rewrite import Any, Match, Op, Rewriter, rewrite

X = torch.randn(1, 3, 8, 8)


class ConvRelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.conv(x).relu()) + 1


@rewrite(Op(vocab.RELU, Op(vocab.CONV2D, Any("x"), bind="conv", users=1)))
def conv_relu(match: Match, rw: Rewriter) -> fx.Node:
    return rw.with_args(match["conv"], post=(("relu",),))


class FuseConvRelu(PatternPass):
    name = "my-fuse"
    patterns = (conv_relu,)


class Do(Pass):
    """Runs a function, which is kept out of the options."""

    name = "do"

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        self.action(graph, ctx)


def do(action: Callable[[fx.Graph, PassContext], None]) -> Pass:
    return type("Doing", (Do,), {"action": staticmethod(action)})()
