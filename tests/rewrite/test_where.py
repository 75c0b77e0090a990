"""Predicates of patterns that look at what is matched so far, rules that add up, statistics."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab


class Sums(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a = x.relu()
        return (a * x) + (a * y) + (y * y)


X = (torch.randn(3), torch.randn(3))


def operands_differ(node: fx.Node, match: qfx.Match) -> bool | qfx.Mismatch:
    return match["a"] is not match["b"] or qfx.Mismatch("a square of {0}", match["a"])


PRODUCT = qfx.Op(vocab.MUL, qfx.Any("a"), qfx.Any("b"), bind="product", where=operands_differ)


@qfx.rewrite(PRODUCT)
def product(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node | qfx.Mismatch:
    return qfx.Mismatch("found {0} {1}", match["a"], match["b"])


def reasons(*rules: qfx.rewrite) -> list[str]:
    class P(qfx.PatternPass):
        name = "p"
        patterns = rules

    _, history = qfx.run_passes(Sums(), [P()], X)
    return [miss.reason for miss in history[-1].near_misses]


def test_a_predicate_sees_the_operands() -> None:
    assert reasons(product) == [
        "found %relu %x".replace("%", ""),
        "found relu y",
        "a square of y",
    ]


def test_a_predicate_sees_what_stands_in_front_of_it_and_orders_are_tried() -> None:
    def is_first(node: fx.Node, match: qfx.Match) -> bool:
        return node.args[0] is match["x"]

    relu = qfx.Op(vocab.RELU, qfx.Any, where=is_first)
    asked: list[bool] = []

    def never(node: fx.Node, match: qfx.Match) -> bool:
        asked.append("x" in match)
        return False

    @qfx.rewrite(qfx.Op(vocab.MUL, qfx.Any("x"), relu))
    def gated(match: qfx.Match, rw: qfx.Rewriter) -> qfx.Mismatch:
        return qfx.Mismatch("gated {0}", match["x"])

    @qfx.rewrite(qfx.Op(vocab.RELU, qfx.Any("x"), where=never))
    def refused(match: qfx.Match, rw: qfx.Rewriter) -> qfx.Mismatch:
        return qfx.Mismatch("not reached")

    found = reasons(gated, refused)
    assert "gated x" in found
    assert "gated y" not in found
    assert "relu: refused by never" in found
    assert asked == [True]


def test_a_predicate_of_the_node_alone_is_asked_before_operands() -> None:
    @qfx.rewrite(qfx.Op(vocab.MUL, qfx.Any, qfx.Op(vocab.RELU, qfx.Any), where=lambda node: False))
    def never(match: qfx.Match, rw: qfx.Rewriter) -> qfx.Mismatch:
        return qfx.Mismatch("not reached")

    assert reasons(never) == [f"{name}: refused by lambda" for name in ("mul", "mul_1", "mul_2")]


def test_a_predicate_that_returns_nothing_is_told() -> None:
    @qfx.rewrite(qfx.Op(vocab.RELU, qfx.Any, where=lambda node: None))  # type: ignore[arg-type,return-value]
    def never(match: qfx.Match, rw: qfx.Rewriter) -> qfx.Mismatch:
        return qfx.Mismatch("not reached")

    assert set(reasons(never)) == {"relu: refused by lambda, which returned None"}


@qfx.rewrite(qfx.Op(vocab.RELU, qfx.Any("x")))
def to_clamp(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    return rw.call(vocab.CLAMP, match["x"], min=0.0)


def test_rules_add_up() -> None:
    assert product + to_clamp == (product, to_clamp)
    assert (product + to_clamp) + product == (product, to_clamp, product)
    assert product + (to_clamp + product) == (product, to_clamp, product)


def test_statistics_of_rules() -> None:
    class P(qfx.PatternPass):
        name = "p"
        patterns = product + to_clamp

    _, history = qfx.run_passes(Sums(), [P()], X)
    first, second = history[-1].statistics
    assert (first.rule, first.rewrites) == ("p/product", 0)
    assert (second.rule, second.attempts, second.matches, second.rewrites) == (
        "p/to_clamp",
        1,
        1,
        1,
    )
    assert first.matches >= 2
    assert first.attempts >= 3
    table = history.rules().splitlines()
    assert table[0].split() == ["rule", "tried", "matched", "applied", "ms"]
    assert any(line.split()[:4] == ["p/to_clamp", "1", "1", "1"] for line in table)
    assert "p/to_clamp" not in str(history[-1].snapshot)


def test_a_rule_that_comes_near_nothing_tells_where_it_was_first_tried() -> None:
    @qfx.rewrite(qfx.Op(vocab.MUL, qfx.Op(vocab.GELU, qfx.Any), qfx.Any))
    def far(match: qfx.Match, rw: qfx.Rewriter) -> qfx.Mismatch:
        return qfx.Mismatch("not reached")

    assert reasons(far) == ["expected gelu, found relu"]


def test_a_rule_does_not_nearly_apply_to_what_it_made() -> None:
    @qfx.rewrite(qfx.Op(vocab.GELU, qfx.Any("x"), approximate="none"))
    def by_tanh(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
        return rw.call(vocab.GELU, match["x"], approximate="tanh")

    class P(qfx.PatternPass):
        name = "p"
        keeps_values = False
        patterns = (by_tanh,)

    _, history = qfx.run_passes(nn.GELU(), [P()], X[0])
    assert history[-1].fired == {"p/by_tanh": 1}
    assert history[-1].near_misses == ()
