"""What a plain pass makes derives from what it replaces, and yields what it computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab

X = torch.randn(2, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.fc(x)) + 1


def plain(make: Callable[[qfx.Rewriter, fx.Node], fx.Node], op: vocab.OpDef = vocab.RELU):
    class Plain(qfx.Pass):
        name = "plain"
        keeps_values = False

        def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
            for n in list(graph.nodes):
                if vocab.is_op(n, op):
                    with ctx.rewriter.at(n):
                        ctx.rewriter.replace(n, make(ctx.rewriter, n))
            for n in [n for n in graph.nodes if vocab.is_op(n, op) and not n.users]:
                ctx.rewriter.erase(n)  # a copy of which only the arguments were read

    return Plain()


MADE = {
    "operation": lambda rw, n: rw.call(vocab.TANH, n.args[0]),
    "function": lambda rw, n: rw.call(torch.tanh, n.args[0]),
    "method": lambda rw, n: rw.call_method("tanh", n.args[0]),
    "module": lambda rw, n: rw.call_module("act", nn.Tanh(), n.args[0]),
    "steps": lambda rw, n: rw.call(vocab.TANH, rw.call_method("clone", n.args[0])),
    "copy": lambda rw, n: rw.call(vocab.TANH, *rw.with_args(n, n.args[0]).args),
}


@pytest.mark.parametrize("make", MADE)
def test_the_natural_plain_pass(make: str) -> None:
    model = Net().eval()
    gm, history = qfx.run_passes(model, [plain(MADE[make])], X)
    torch.testing.assert_close(gm(X), torch.tanh(model.fc(X)) + 1)
    record = next(r for r in history[-1].snapshot if r.name == "relu")
    assert record.type_text == "f32[2,3]"
    assert [o.node for o in record.origins] == ["relu"]
    assert record.source.startswith("test_values.py:")
    assert record.rule == "plain"
    assert "relu" in str(history.blame("relu"))


def test_steps_derive_from_what_is_replaced_too() -> None:
    _, history = qfx.run_passes(Net().eval(), [plain(MADE["steps"])], X)
    (step,) = [r for r in history[-1].snapshot if r.target == "clone"]
    assert [o.node for o in step.origins] == ["relu"]
    (event,) = history[-1].events
    assert event.removed == ("relu",)
    assert set(event.added) == {step.name, "relu"}


def test_several_made_first_and_replaced_later_keep_apart() -> None:
    class Two(qfx.Pass):
        name = "two"

        def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
            rw = ctx.rewriter
            old = [n for n in graph.nodes if vocab.is_op(n, vocab.RELU, vocab.LINEAR)]
            new = []
            for n in old:
                with rw.at(n):
                    new.append(rw.call(n.target, *n.args))
            for pair in zip(old, new, strict=True):
                rw.replace(*pair)

    model = Net().eval()
    gm, history = qfx.run_passes(model, [Two()], X)
    assert torch.equal(gm(X), model(X))
    assert [(e.removed, e.added) for e in history[-1].events] == [
        (("fc",), ("fc",)),
        (("relu",), ("relu",)),
    ]
    origins = {r.name: [o.node for o in r.origins] for r in history[-1].snapshot}
    assert (origins["fc"], origins["relu"]) == (["fc"], ["relu"])


def test_what_replaces_nothing_derives_from_what_it_reads() -> None:
    class Aside(qfx.Pass):
        name = "aside"
        keeps_values = False

        def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
            (relu,) = [n for n in graph.nodes if vocab.is_op(n, vocab.RELU)]
            with ctx.rewriter.at(relu):
                made = ctx.rewriter.call(vocab.TANH, relu.args[0])
            relu.replace_input_with(relu.args[0], made)

    _, history = qfx.run_passes(Net().eval(), [Aside()], X)
    (record,) = [r for r in history[-1].snapshot if r.target == "tanh"]
    assert [o.node for o in record.origins] == ["fc"]
    assert record.type_text == "f32[2,3]"


def test_values_are_there_at_once() -> None:
    seen = []

    def turned(rw: qfx.Rewriter, n: fx.Node) -> fx.Node:
        made = rw.call(vocab.TRANSPOSE, n.args[0], dim0=0, dim1=1)
        seen.append(qfx.graph.meta.tensor_info(made).shape)
        return rw.call(vocab.TRANSPOSE, made, dim0=0, dim1=1)

    qfx.run_passes(Net().eval(), [plain(turned)], X)
    assert seen == [(3, 2)]


def test_wrapping_what_is_there() -> None:
    model = Net().eval()
    gm, history = qfx.run_passes(model, [plain(lambda rw, n: after(rw, n))], X)
    torch.testing.assert_close(gm(X), torch.tanh(torch.relu(model.fc(X))) + 1)
    (record,) = [r for r in history[-1].snapshot if r.target == "tanh"]
    assert [o.node for o in record.origins] == ["relu"]


def after(rw: qfx.Rewriter, n: fx.Node) -> fx.Node:
    with rw.at(n.next):
        return rw.call(vocab.TANH, n)
