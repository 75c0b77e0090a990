"""The fuzzer finds what is wrong with a pass, and says it in few lines."""

from __future__ import annotations

import re

import pytest
import torch
from torch import fx

import qfx
from qfx import vocab
from qfx.history.history import History
from qfx.testing import FuzzError, fuzz, generate
from qfx.testing.phrases import phrases_of


@qfx.rewrite(qfx.Op(vocab.SIGMOID, qfx.Any("x")))
def to_tanh(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    return rw.call(vocab.TANH, match["x"])


class Wrong(qfx.PatternPass):
    name = "wrong"
    patterns = (to_tanh,)


@qfx.rewrite(qfx.Op(vocab.RELU, qfx.Any("x")))
def to_clamp(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    return rw.call(vocab.CLAMP, match["x"], min=0.0)


class Right(qfx.PatternPass):
    name = "right"
    patterns = (to_clamp,)


def test_a_right_pass_holds_and_its_rules_are_counted() -> None:
    result = fuzz(Right, seeds=range(4))
    assert result.programs == 4
    assert result.fired["right/to_clamp"] > 0
    assert str(result).startswith("4 models; rules fired: right/to_clamp x")


def seed_with(kind: str) -> int:
    return next(s for s in range(1000) if any(step.kind == kind for step in generate(s).steps))


def test_a_wrong_pass_is_shrunk_to_a_script() -> None:
    with pytest.raises(FuzzError, match=r"pass wrong \(rule to_tanh\) changes what") as caught:
        fuzz(Wrong(), seeds=[seed_with("sigmoid")])
    failure = caught.value
    assert len(failure.program.steps) <= 2
    assert "from tests.testing.test_fuzzing import Wrong" in failure.script.replace(
        "from test_fuzzing", "from tests.testing.test_fuzzing"
    )
    with pytest.raises(qfx.PassError, match=r"pass wrong \(rule to_tanh\) changes what"):
        exec(re.sub(r"from \S*test_fuzzing import Wrong\n", "", failure.script), {"Wrong": Wrong})


class Raises(qfx.Pass):
    name = "raises"

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        if any(node.target is vocab.ADD for node in graph.nodes):
            raise ValueError("sums are beyond me")


def test_what_raises_is_found_too() -> None:
    with pytest.raises(FuzzError, match="PassError: pass raises raised ValueError: sums") as found:
        fuzz([qfx.get_pass("canonicalize"), Raises], seeds=[seed_with("+")])
    assert len(found.value.program.steps) == 1
    assert "qfx.parse_pass('canonicalize')" in found.value.script


def test_a_watch_may_refuse_what_it_sees() -> None:
    def watch(history: History) -> None:
        assert "conv2d" not in history[-1].snapshot.to_text(), "a convolution"

    with pytest.raises(FuzzError, match="AssertionError: a convolution"):
        fuzz(Right(), seeds=[seed_with("conv")], watch=watch)


def test_programs_are_the_same_for_the_same_seed() -> None:
    one, other = generate(7), generate(7)
    assert one.source() == other.source()
    x = one.example()
    ours, theirs = one.build()(x), other.build()(x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


KINDS = ("F.conv2d", "nn.ReLU inplace", "torch.add alpha", "cat", "linear", "view", "layer_norm")


@pytest.mark.parametrize("kind", KINDS)
def test_programs_reach(kind: str) -> None:
    program = generate(seed_with(kind))
    output = program.build()(program.example())
    assert all(torch.isfinite(t).all() for t in (output if isinstance(output, tuple) else [output]))


def test_some_programs_share_modules() -> None:
    def shares(seed: int) -> bool:
        named = [step.module for step in generate(seed).steps if step.module.startswith("conv")]
        return len(set(named)) < len(named)

    assert any(map(shares, range(200)))


def rules(*given: qfx.Op) -> qfx.Pass:
    """A pass with a rule for each pattern, named by its number, that never does anything."""

    def refuse(match: qfx.Match, rw: qfx.Rewriter) -> qfx.Mismatch:
        return qfx.Mismatch("never")

    class Rules(qfx.PatternPass):
        name = "rules"
        patterns = tuple(qfx.rewrite(p, name=str(n))(refuse) for n, p in enumerate(given))

    return Rules()


def test_models_hold_what_the_rules_apply_to() -> None:
    @qfx.rewrite(qfx.Op(vocab.SUB, qfx.Op(vocab.ERF, qfx.Any("x"), users=1), qfx.Any("y")))
    def odd(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
        return rw.call(vocab.NEG, rw.call(vocab.SUB, match["y"], rw.call(vocab.ERF, match["x"])))

    class Odd(qfx.PatternPass):
        name = "odd"
        patterns = (odd,)

    assert fuzz(Odd, seeds=range(6)).fired["odd/odd"] > 0


def test_phrases_are_told_of_arithmetic_alone() -> None:
    x = qfx.Any("x")
    told = phrases_of(
        [
            rules(
                qfx.Op(vocab.MUL, x, qfx.Op(vocab.SIGMOID, x)),
                qfx.Op(vocab.GELU, qfx.OneOf(qfx.Op(vocab.ADD), x), approximate="tanh"),
                qfx.Op(vocab.ADD, x, 1.5, alpha=qfx.Any("alpha")),
                qfx.Op(vocab.CONV2D, x, qfx.Attr("w")),
                qfx.Op(vocab.ADD, x, qfx.Attr("w")),
                qfx.Op(vocab.ELU, x, alpha=qfx.Const(float)),
                qfx.Op("relu", x),
            )
        ]
    )
    assert list(told.values()) == [
        "torch.mul({0}, torch.sigmoid({0}))",
        "F.gelu(torch.add({0}, {1}), approximate='tanh')",
        "torch.add({0}, 1.5)",
    ]


def test_who_tested_nothing_is_told() -> None:
    with pytest.warns(qfx.QfxWarning, match=r"fuzz tested nothing: in 1 models .* rules/0 applies"):
        found = fuzz(rules(qfx.Op(vocab.CONV3D, qfx.Any("x"), qfx.Any("w"))), seeds=range(1))
    assert found.idle == ("rules/0",)
    assert str(found) == "1 models; rules fired: none; never: rules/0"
