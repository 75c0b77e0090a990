from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import torch
from torch import fx, nn

from qfx import vocab
from qfx.errors import ConfigError
from qfx.graph import findings, meta
from qfx.graph.meta import Origin, TensorInfo
from qfx.history.diff import diff
from qfx.history.kinds import Look, look
from qfx.history.snapshot import snapshot
from tests.history.views import Builder

U8 = TensorInfo((1, 8, 32, 32), torch.uint8)


class MinMaxObserver(nn.Module):
    """Named like an observer; the drawing knows no more of it."""


def quantized() -> fx.GraphModule:
    """A block of two modules, the second with a constant made of a weight."""
    b = Builder()
    x = b.input("x")
    q = b.call(vocab.QUANTIZE, x, 0.0123456789, 3, name="q", path="block.a", value=U8)
    mm = b.call(vocab.LINEAR, q, b.weight("w"), name="mm", path="block.b")
    relu = b.call(vocab.RELU, mm, name="relu", path="block.b", value=U8)
    made = b.call(vocab.DEQUANTIZE, b.weight("v"), 1.0, 0, name="made", path="block.c")
    last = b.call(vocab.LINEAR, relu, made, name="last", path="block.c", note='a%b <&> "q" \\n')
    return b.done(b.call(vocab.TANH, last, name="tanh", origins=()))


def kinds(gm: fx.GraphModule) -> dict[str, Look]:
    view = snapshot(gm)
    values = {r.name: r.value for r in view}
    return {r.name: look(r, values) for r in view if r.op != "get_attr"}


def test_colours_tell_kinds_and_integers() -> None:
    assert kinds(quantized()) == {
        "x": Look.BOUNDARY, "q": Look.QUANT, "mm": Look.INTEGER_MATMUL, "relu": Look.INTEGER,
        "made": Look.QUANT, "last": Look.INTEGER_MATMUL, "tanh": Look.FLOAT,
        "output": Look.BOUNDARY,
    }  # fmt: skip


def test_colours_of_modules() -> None:
    b = Builder()
    b.root.add_module("fc", nn.Linear(4, 4))
    b.root.add_module("watch", MinMaxObserver())
    y = b.graph.call_module("fc", (b.input("x"),))
    found = kinds(b.done(b.graph.call_module("watch", (y,))))
    assert (found["fc"], found["watch"]) == (Look.FLOAT_MATMUL, Look.OBSERVER)


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (torch.ops.aten.addmm.default, Look.FLOAT_MATMUL),
        (torch.ops.aten.convolution.default, Look.FLOAT_MATMUL),
        (torch.quantize_per_tensor, Look.QUANT),
        (torch.addcmul, Look.FLOAT),
    ],
)
def test_colours_of_what_is_not_in_the_vocabulary(target: object, kind: Look) -> None:
    b = Builder()
    assert kinds(b.done(b.call(target, b.input("x"), name="y")))["y"] is kind


def test_drawing_has_legend_frames_edges_and_tooltips() -> None:
    source = snapshot(quantized()).to_dot().source
    for title in ("quantize, dequantize", "matmul, integer", "other, float"):
        assert title in source
    assert "matmul, float" not in source
    assert re.search(r'subgraph "cluster_block.b" {\s+color=.* label=b ', source)
    assert "model.py:12" in source
    assert "0.0123456789, 3)" in source  # the tooltip is exact, the label rounded
    assert "0.012346, 3<" in source
    assert "w [" not in source  # parameters are not drawn


def test_frame_of_one_node_or_of_a_shared_leaf_is_left_out() -> None:
    b = Builder()
    y = b.input("x")
    for name in ("relu_a", "relu_b"):
        y = b.call(vocab.RELU, y, name=name)
        meta.set_origins(y, [Origin(name, "net.relu", "", "torch.nn.modules.activation.ReLU")])
    y = b.call(vocab.TANH, y, name="tanh", path="alone")
    clusters = re.findall(r"subgraph (\S+)", snapshot(b.done(y)).to_dot().source)
    assert clusters == ["cluster_net"]


def test_node_without_provenance_stands_with_its_operand() -> None:
    b = Builder()
    y = b.call(vocab.RELU, b.input("x"), name="relu", path="net")
    y = b.call(vocab.TANH, y, name="synthetic", origins=())
    source = snapshot(b.done(y)).to_dot().source
    inside = source.split("subgraph cluster_net", 1)[1].split("}", 1)[0]
    assert "synthetic [" in inside


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
@pytest.mark.parametrize("what", ["snapshot", "diff", "large", "empty diff"])
def test_graphviz_accepts_every_drawing(what: str) -> None:
    b = Builder()
    y = b.input("x")
    for i in range(500 if what == "large" else 3):
        y = b.call(vocab.RELU, y, name=f"node{i}", path=f"block{i % 7}.x{i}")
    chain = b.done(y)
    drawing = {
        "snapshot": lambda: snapshot(quantized()).to_dot(),
        "diff": lambda: diff(chain, quantized()).to_dot(),
        "large": lambda: snapshot(chain).to_dot(),
        "empty diff": lambda: diff(chain, chain).to_dot(),
    }[what]()
    done = subprocess.run(
        ["dot", "-Tcanon"], input=drawing.source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_diff_drawing_says_what_a_changed_node_was() -> None:
    def build(dim: int, target: object, read: str) -> fx.GraphModule:
        b = Builder()
        inputs = {"x": b.input("x"), "y": b.input("y")}
        a = b.call(vocab.SOFTMAX, inputs["x"], name="a", dim=dim)
        c = b.call(target, a, name="c")
        return b.done(b.call(vocab.ADD, c, inputs[read], name="d"))

    source = diff(build(1, vocab.RELU, "x"), build(2, vocab.TANH, "y")).to_dot().source
    assert "was softmax(%x, dim=1)" in source
    assert "was relu<" in source
    assert "was add" not in source  # it reads another operand, which the edges show
    assert "2 changed" not in source
    assert "3 changed" in source


def test_diff_drawing_says_where_what_moved_stands_now() -> None:
    def build(*order: str) -> fx.GraphModule:
        b = Builder()
        x = b.input("x")
        made = {name: b.call(vocab.RELU, x, name=name) for name in order}
        return b.done(b.call(vocab.CAT, [made[n] for n in sorted(made)], name="d"))

    source = diff(build("a", "b", "c"), build("b", "c", "a")).to_dot().source
    assert "now right after %c<" in source
    assert source.count("now right after") == 1


def test_diff_drawing_has_boxes_for_constants_that_were_calls_and_for_what_stands_between() -> None:
    def build(folded: bool) -> fx.GraphModule:
        b = Builder()
        x = b.input("x")
        weight = b.weight("w")
        made = weight if folded else b.call(vocab.EXP, weight, name="made")
        if folded:
            made = b.graph.get_attr("w")
            made.name = "made"
            meta.set_origins(made, [Origin("made", "made", "", "torch.op")])
        y = b.call(vocab.MUL, x, made, name="y")
        between = b.call(vocab.TANH, x, name="between")
        return b.done(b.call(vocab.ADD, y, between, name="z"))

    changed = diff(build(folded=False), build(folded=True))
    assert "made" in changed.changed
    source = changed.to_dot(context=2).source
    assert "<B>@w</B>" in source
    assert "was exp<" in source
    assert "between [" in changed.to_dot(context=2).source
    assert "…" not in source


def test_findings_frame_nodes_and_are_drawn_where_nothing_else_differs() -> None:
    def build(stages: dict[str, int]) -> fx.GraphModule:
        b = Builder()
        y = b.input("x")
        for name in ("a", "b", "c"):
            y = b.call(vocab.RELU, y, name=name, path="all")
        made = b.done(y)
        for node in made.graph.nodes:
            if node.name in stages:
                findings.record(node, "stage", stages[node.name])
        return made

    plain, staged = build({}), build({"a": 0, "b": 0, "c": 1})
    view = snapshot(staged)
    assert re.findall(r"subgraph (\S+)", view.to_dot().source) == ["cluster_all"]
    framed = view.to_dot(frames="stage").source
    assert re.findall(r'subgraph "(\S+)"', framed) == ["cluster_stage=0", "cluster_stage=1"]
    with pytest.raises(ConfigError, match="no pass recorded 'stages' of a node here"):
        view.to_dot(frames="stages")
    noted = diff(plain, staged)
    assert not noted
    assert noted.noted == ("a", "b", "c")
    assert noted.summary() == "no difference, findings of 3 nodes"
    assert re.findall(r"^\* %(\w)", noted.to_text(), re.MULTILINE) == ["a", "b", "c"]
    assert ">noted<" in noted.to_dot().source
    assert diff(staged, staged).summary() == "no difference"
