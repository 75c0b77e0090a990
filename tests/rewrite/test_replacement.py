"""What replaces a match reads the values that the match read, also where memory is overwritten.

Each case is a rule on a model with a write in between, the reason why it does not apply there, and
the same without the write.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab

X = torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2)


@torch.fx.wrap
def halve_(x: Tensor) -> None:
    x.mul_(0.5)


class Net(nn.Module):
    """A write stands between what a match reads and its root, or nothing does."""

    def __init__(self, writes: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.writes = nn.Conv2d(3, 3, 1), writes
        self.register_buffer("scale", torch.full((3, 1, 1), 2.0))

    def write(self, x: Tensor) -> None:
        if self.writes:
            halve_(x)


class LateRead(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = x + 1
        y = self.conv(x)
        self.write(x)
        return torch.relu(y) + x


class LateReadOfAView(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = x + 1
        y = self.conv(x.flatten(2).unflatten(2, (2, 2)))
        self.write(x)
        return torch.relu(y) + x


class LateReadOfABuffer(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = x * self.scale
        self.write(self.scale)
        return torch.sigmoid(y)


class SharedMemory(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = x + 1
        y = x * 1
        self.write(x)
        return y + x


class SharedMemoryWrittenByOthers(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = x + 1
        y = x * 1
        self.write(y)
        return y + x


class ElsewhereWritten(Net):
    """What is overwritten in between is something else."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        other = x + 1
        self.write(other)
        return torch.relu(y) + other


@qfx.rewrite(qfx.Op(vocab.RELU, qfx.Op(vocab.CONV2D, bind="conv", users=1)))
def conv_relu(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    return rw.with_args(match["conv"], post=(("relu",),))


@qfx.rewrite(qfx.Op(vocab.RELU, qfx.Op(vocab.CONV2D, bind="conv", users=1)))
def conv_relu_early(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    with rw.at(match["conv"]):
        return rw.with_args(match["conv"], post=(("relu",),))


@qfx.rewrite(qfx.Op(vocab.RELU, qfx.Op(vocab.CONV2D, bind="conv", users=1)))
def conv_relu_by_hand(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    made = rw.with_args(match["conv"], post=(("relu",),))
    rw.replace(match.root, made)
    return made


@qfx.rewrite(qfx.Op(vocab.SIGMOID, qfx.Op(vocab.MUL, qfx.Any("x"), qfx.Any("by"), users=1)))
def sigmoid_of_product(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    negative = rw.call(vocab.MUL, rw.call(vocab.MUL, match["x"], match["by"]), -1)
    exp = rw.call(torch.exp, negative)
    return rw.call(vocab.DIV, 1.0, rw.call(vocab.ADD, exp, 1.0))


@qfx.rewrite(qfx.Op(vocab.MUL, qfx.Any("x"), qfx.Const(1)))
def times_one(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    return match["x"]


@qfx.rewrite(qfx.Op(vocab.MUL, qfx.Any("x"), qfx.Const(1)))
def times_one_viewed(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    flat = rw.call(vocab.FLATTEN, match["x"])
    return rw.call(vocab.RESHAPE, flat, shape=(2, 3, 2, 2))


def run(rule: Any, model: nn.Module) -> tuple[list[str], str]:
    """The reasons of near-misses and the text of the graph, whose values are checked."""

    class Mine(qfx.PatternPass):
        name = "mine"
        patterns = (rule,)

    expected = copy.deepcopy(model)(X)
    gm, history = qfx.run_passes(model, [Mine()], X)
    torch.testing.assert_close(gm(X), expected)
    return [miss.reason for miss in history[-1].near_misses], history[-1].snapshot.to_text()


@pytest.mark.parametrize(
    ("kind", "rule", "reason"),
    [
        (LateRead, conv_relu, "halve_ may overwrite add before the replacement of relu reads it"),
        (LateReadOfAView, conv_relu, "before the replacement of relu reads it"),
        (LateReadOfABuffer, sigmoid_of_product, "halve_ may overwrite scale before"),
        (SharedMemory, times_one, "halve_ may overwrite add, whose memory would stand for mul"),
        (SharedMemory, times_one_viewed, "whose memory would stand for mul"),
        (SharedMemoryWrittenByOthers, times_one, "whose memory would stand for mul"),
    ],
)
def test_a_write_in_between(kind: type[Net], rule: Any, reason: str) -> None:
    (found,), text = run(rule, seeded(kind, True))
    assert reason in found
    assert "halve_" in text
    reasons, _ = run(rule, seeded(kind, False))
    assert reasons == []


def seeded(kind: type[Net], writes: bool) -> Net:
    model: Net = kind(writes).eval()
    return model


def test_a_replacement_that_stands_where_the_value_is_read_applies() -> None:
    reasons, text = run(conv_relu_early, seeded(LateRead, True))
    assert reasons == []
    assert "conv2d+relu" in text


def test_writes_to_other_memory_do_not_matter() -> None:
    reasons, text = run(conv_relu, seeded(ElsewhereWritten, True))
    assert reasons == []
    assert "conv2d+relu" in text


def test_a_rule_that_has_replaced_already_is_an_error() -> None:
    with pytest.raises(qfx.PatternError, match=r"rule conv_relu_by_hand .*halve_ may overwrite"):
        run(conv_relu_by_hand, seeded(LateRead, True))
    reasons, _ = run(conv_relu_by_hand, seeded(LateRead, False))
    assert reasons == []


def test_what_a_rule_made_counts_too() -> None:
    """The second rule reads what the first has made, which is known by then."""

    @qfx.rewrite(qfx.Op(vocab.ADD, qfx.Any("x"), qfx.Const(1), bind="root"))
    def respelled(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
        return rw.call(vocab.SUB, match["x"], -1)

    class Both(qfx.PatternPass):
        name = "both"
        patterns = (respelled, conv_relu)

    model = seeded(LateRead, True)
    expected = copy.deepcopy(model)(X)
    gm, history = qfx.run_passes(model, [Both()], X)
    torch.testing.assert_close(gm(X), expected)
    assert "sub(%x, -1)" in history[-1].snapshot.to_text()
    assert [m.reason for m in history[-1].near_misses if m.rule == "both/conv_relu"] == [
        "halve_ may overwrite add before the replacement of relu reads it"
    ]


def test_parameters_that_are_written_to_are_left_alone() -> None:
    """By capture, which runs the model on a copy, and by the check of passes, which runs graphs."""

    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((3, 1, 1), 2.0), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            y = x * self.weight
            halve_(self.weight)
            return torch.sigmoid(y)

    model = Writes().eval()
    gm, history = qfx.run_passes(model, [qfx.get_pass("canonicalize"), Sigmoids()], X)
    assert "halve_ may overwrite weight" in history[-1].near_misses[0].reason
    for held in (model, gm):
        assert held.weight.flatten().tolist() == [2.0] * 3
    for _ in range(2):
        torch.testing.assert_close(gm(X), model(X))


class Sigmoids(qfx.PatternPass):
    name = "sigmoids"
    patterns = (sigmoid_of_product,)
