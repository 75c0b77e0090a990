"""Nodes that stay and change: each way leaves an event that names them."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from qfx import vocab
from qfx.errors import PatternError
from qfx.framework.manager import run_pipeline
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.graph.clone import copy_graph
from qfx.history.events import Event
from qfx.history.history import History
from qfx.history.stage import Stage
from qfx.rewrite import Rewriter
from tests.rewrite.graphs import GraphBuilder, text

CODES = meta.TensorInfo((1, 4), torch.uint8)


def test_a_reader_reads_something_else() -> None:
    b = GraphBuilder()
    x = b.input()
    relu, tanh = b.relu(x), b.tanh(x)
    rw = Rewriter(b.done(relu, tanh), pass_name="p")
    with rw.at(relu):
        doubled = rw.call(vocab.MUL, x, 2)
    rw.rewire(relu, x, doubled)
    rw.rewire(tanh, x, doubled)
    assert rw.events == [
        Event("p", (), ("mul",), "model.py:7", ("relu",)),
        Event("p", (), (), "model.py:7", ("tanh",)),
    ]
    assert [event.is_rewrite for event in rw.events] == [True, False]
    with pytest.raises(PatternError, match=r"relu .*does not read x"):
        rw.rewire(relu, x, doubled)


def test_arguments_change() -> None:
    b = GraphBuilder()
    x, y = b.input("x"), b.input("y")
    node = b.leaky_relu(x, negative_slope=0.2)
    gm = b.done(node, y)
    rw = Rewriter(gm, pass_name="p")
    rw.update(node, kwargs={"negative_slope": 0.5})
    rw.update(node, args=(y,))
    assert text(gm).splitlines()[2] == "%leaky_relu = leaky_relu(%y, negative_slope=0.5)"
    rw.update(node, kwargs={"negative_slope": 0.01}, value=CODES)
    assert (node.kwargs, meta.value_of(node)) == ({}, CODES)
    assert rw.events == [Event("p", (), (), "model.py:7", ("leaky_relu",))] * 3
    assert meta.rule_of(node) == ""  # still the model's own


def test_what_was_made_and_changes_yields_what_it_computes_then() -> None:
    b = GraphBuilder()
    x = b.input()
    rw = Rewriter(b.done(x), pass_name="p")
    made = rw.call(vocab.SUM, x, dim=0)
    assert meta.value_of(made) == meta.TensorInfo((4,), torch.float32)
    rw.update(made, kwargs={"dim": 1})
    assert meta.value_of(made) == meta.TensorInfo((1,), torch.float32)
    rw.finish()
    assert rw.events == [Event("p", (), ("sum_1",), "model.py:7")]  # new, not changed


def test_targets_change() -> None:
    b = GraphBuilder()
    relu = b.relu(b.attr("w", torch.ones(4)))
    gm = b.done(relu)
    rw = Rewriter(gm, pass_name="p")
    rw.retarget(relu, vocab.TANH)
    rw.retarget(relu.args[0], rw.register("v", torch.zeros(4)))
    rw.finish()
    assert text(gm) == "%relu = tanh(@v)\nreturn %relu"
    assert [event.changed for event in rw.events] == [("relu",), ("w",)]
    assert not hasattr(gm, "w")


def test_modules_are_configured_and_called_again() -> None:
    b = GraphBuilder()
    act = nn.ReLU(inplace=True)
    node = b.module("act", act, b.input())
    gm = b.done(node)
    rw = Rewriter(gm, pass_name="p")
    rw.configure(node, inplace=False)
    assert act.inplace is False
    with rw.at(node.next):
        again = rw.call_submodule("act", node, value=meta.value_of(node))
    rw.replace(node, again)
    assert text(gm) == "%x = input\n%act = ReLU[@act](%x)\n%act_1 = ReLU[@act](%act)\nreturn %act_1"
    assert [event.changed for event in rw.events] == [("act",), ("output",)]


def test_readers_change_where_a_replacement_has_another_name() -> None:
    b = GraphBuilder()
    x = b.input()
    relu = b.relu(x)
    rw = Rewriter(b.done(b.tanh(relu)), pass_name="p")
    rw.replace(relu, x)
    assert rw.events == [Event("p", ("relu",), (), "model.py:7", ("tanh",))]


def test_a_changed_node_that_goes_is_removed_only() -> None:
    b = GraphBuilder()
    x, y = b.input("x"), b.input("y")
    node = b.relu(x)
    rw = Rewriter(b.done(x, y), pass_name="p")
    rw.update(node, args=(y,))
    rw.erase(node)
    assert [(e.removed, e.changed) for e in rw.events] == [((), ("relu",)), (("relu",), ())]


def test_what_nothing_reads_goes_in_one_event() -> None:
    b = GraphBuilder()
    x = b.input()
    b.tanh(b.relu(x))
    kept = b.sigmoid(x)
    gm = b.done(x)
    rw = Rewriter(gm, pass_name="p")
    rw.erase_unread(lambda node: node is kept or node.op in ("placeholder", "output"))
    assert text(gm) == "%x = input\n%sigmoid = sigmoid(%x)\nreturn %x"
    assert [event.removed for event in rw.events] == [("tanh", "relu")]


def test_constants_that_finish_drops_leave_an_event() -> None:
    b = GraphBuilder()
    x = b.input()
    b.attr("w", torch.ones(4))
    rw = Rewriter(b.done(x), pass_name="p")
    rw.finish()
    assert [event.removed for event in rw.events] == [("w",)]


def test_a_graph_that_is_put_back_tells_what_stands_for_what() -> None:
    b = GraphBuilder()
    x = b.input()
    left, right = b.relu(x), b.tanh(x)
    gm = b.done(b.leaky_relu(left, negative_slope=0.2), right)
    before, then = text(gm), copy_graph(gm.graph)
    rw = Rewriter(gm, pass_name="p")
    with rw.at(left):
        inner = rw.call(vocab.SIGMOID, x, origins=(left,))
        rw.replace(left, rw.call(vocab.MUL, inner, 2, origins=(left,)))
    rw.update(next(n for n in gm.graph.nodes if n.target is vocab.LEAKY_RELU), kwargs={})
    known = len(rw.events)
    rw.rebuild(then)
    assert text(gm) == before
    assert [(e.removed, e.added, e.changed) for e in rw.events[known:]] == [
        (("relu_1",), (), ()),
        ((), (), ("relu",)),
        ((), (), ("leaky_relu",)),
    ]
    assert {event.rule for event in rw.events} == {"p"}


class Slope(Pass):
    name = "slope"

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        node = next(n for n in graph.nodes if n.target is vocab.LEAKY_RELU)
        ctx.rewriter.update(node, kwargs={"negative_slope": 0.5})


def test_history_shows_changes_and_counts_no_rule() -> None:
    b = GraphBuilder()
    gm, history = b.done(b.leaky_relu(b.input(), negative_slope=0.2)), History()
    run_pipeline(gm, [Slope()], history=history)
    assert history["slope"].fired == {}
    assert history["slope"].heading() == "# stage 1: slope\n"
    assert [str(step) for step in history.blame("leaky_relu").steps] == ["rewrote %leaky_relu"]


def test_blame_names_the_rule_that_changed_a_node() -> None:
    b = GraphBuilder()
    gm, history = b.done(b.leaky_relu(b.input(), negative_slope=0.2)), History()
    run_pipeline(gm, [Slope()], history=history)
    first, last = history
    event = Event("slope/steeper", (), (), "", ("leaky_relu",))
    told = History([first, Stage(1, "slope", last.snapshot, (event, event))])
    (step,) = told.blame("leaky_relu").steps
    assert (step.rule, str(step)) == ("slope/steeper", "rewrote %leaky_relu")
