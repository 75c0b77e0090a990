"""A pass that breaks shapes is told so at once, by name, whatever it is run by."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import vocab
from qfx.graph.history import History
from qfx.graph.meta import TensorInfo
from qfx.rewrite.rule import RuleFunction

X = torch.randn(4, 6)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x))).flatten(1).relu()


def rule(function: RuleFunction, op: vocab.OpDef = vocab.RELU) -> qfx.Pass:
    class Mine(qfx.PatternPass):
        name = "mine"
        patterns = (qfx.rewrite(qfx.Op(op, qfx.Any("x")), name="my-rule")(function),)

    return Mine()


def first(new: Any) -> RuleFunction:
    """At the relu between the layers only, and once."""
    return lambda m, rw: new(m, rw) if m.root.name == "relu" else qfx.Mismatch("the other")


def flattened(match: qfx.Match, rw: qfx.Rewriter) -> Any:
    return rw.call(vocab.FLATTEN, match["x"])


def run(step: qfx.Pass) -> History:
    return qfx.run_passes(Net().eval(), [step], X)[1]


def test_another_shape_in_an_old_place() -> None:
    with pytest.raises(
        qfx.PassError, match=r"yields f32\[20\] and stands where f32\[4,5\] was"
    ) as e:
        run(rule(first(flattened)))
    assert (e.value.pass_name, e.value.rule, e.value.node) == ("mine", "my-rule", "relu")
    assert "What the pass changed since" in str(e.value)


def test_quantize_blames_the_pass_and_not_the_data() -> None:
    pipeline = qfx.pipelines.static("reference").insert_after(
        "canonicalize", rule(first(flattened))
    )
    with pytest.raises(qfx.PassError, match="pass mine"):
        qfx.quantize(Net().eval(), X, pipeline=pipeline)


def test_what_reads_another_value_must_run_on_it() -> None:
    def turned(match: qfx.Match, rw: qfx.Rewriter) -> Any:
        value = TensorInfo((5, 4), torch.float32)  # what it yields, indeed
        return rw.call(vocab.TRANSPOSE, match["x"], dim0=0, dim1=1, value=value)

    with pytest.raises(qfx.PassError, match=r"%b .*can't run on what it reads \(f32\[5,4\], "):
        run(rule(first(turned)))


def test_a_dropped_operation_whose_readers_then_do_not_fit() -> None:
    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1))

    drop = rule(lambda m, rw: m["x"], vocab.FLATTEN)
    with pytest.raises(qfx.PassError, match=r"fc.*can't run on what it reads \(f32\[4,3,1\]"):
        qfx.run_passes(Pool().eval(), [drop], torch.randn(4, 3, 1))


def test_another_output() -> None:
    drop = rule(lambda m, rw: m["x"], vocab.MEAN)

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu().mean(1)

    with pytest.raises(qfx.PassError, match=r"returned f32\[4\], and returns f32\[4,6\] now"):
        qfx.run_passes(Mean().eval(), [drop], X)


def test_a_dtype_counts() -> None:
    def doubled(match: qfx.Match, rw: qfx.Rewriter) -> Any:
        return rw.call(vocab.MUL, match["x"], rw.constant("k", torch.ones(1, 5).double()))

    with pytest.raises(qfx.PassError, match=r"f64\[4,5\] and stands where f32\[4,5\]"):
        run(rule(first(doubled)))


def test_steps_inside_a_rewrite_need_no_value() -> None:
    def around(match: qfx.Match, rw: qfx.Rewriter) -> Any:
        if match["x"].target is vocab.TRANSPOSE:
            return qfx.Mismatch("done")
        turned = rw.call(vocab.TRANSPOSE, match["x"], dim0=0, dim1=1)
        return rw.call(vocab.TRANSPOSE, rw.call(vocab.RELU, turned), dim0=0, dim1=1)

    history = run(rule(first(around)))
    shapes = [r.type_text for r in history[-1].snapshot if "f32[5,4]" in r.type_text]
    assert len(shapes) == 2
