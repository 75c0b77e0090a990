"""The index leaves out only what would come to nothing, and the same near-misses are told."""

from __future__ import annotations

import random

import pytest
import torch
from torch import fx

import qfx
from qfx import vocab
from qfx.rewrite import Matcher, Op, Pattern, RewriteRule, drive
from tests.rewrite.graphs import GraphBuilder

X, W = qfx.Any("x"), qfx.Attr("w")
OPS = (vocab.RELU, vocab.SIGMOID, vocab.TANH, vocab.ADD, vocab.MUL, vocab.SUB, vocab.LINEAR)


def refuse(match: qfx.Match, rw: qfx.Rewriter) -> qfx.Mismatch:
    return qfx.Mismatch("not this one")


def rule(pattern: Pattern, name: str = "rule") -> RewriteRule:
    return RewriteRule(pattern, refuse, name)


def pattern(drawn: random.Random, depth: int) -> Pattern:
    """A pattern of all that may stand in one."""
    kind = drawn.random()
    if depth == 0 or kind < 0.2:
        return drawn.choice((qfx.Any("x"), qfx.Any("y"), W, qfx.Const(1.0), qfx.Any()))
    if kind < 0.3:
        return qfx.OneOf(pattern(drawn, depth - 1), pattern(drawn, depth - 1))
    return call(drawn, depth)


def call(drawn: random.Random, depth: int) -> Op:
    try:
        return any_call(drawn, depth)
    except qfx.PatternError:  # it could not match anything
        return call(drawn, depth)


def any_call(drawn: random.Random, depth: int) -> Op:
    op = drawn.choice(OPS)
    count = min(drawn.choice((0, 1, 2, 2)), 1 if op.elementwise else 2)
    options = drawn.choice(({}, {}, {}, {"users": 1}, {"where": lambda node: False}))
    options = options or drawn.choice(({}, {"where": lambda node, match: False}))
    if op is vocab.LINEAR:
        options = {**options, **drawn.choice(({}, {"bias": None}, {"bias": qfx.Attr("b")}))}
    if op is vocab.ADD:
        options = {**options, **drawn.choice(({}, {"alpha": 2}, {"alpha": qfx.Any("a")}))}
    targets = drawn.choice((op, (op, vocab.RELU))) if count == 1 and len(options) == 0 else op
    return Op(targets, *(pattern(drawn, depth - 1) for _ in range(count)), **options)


def graph(drawn: random.Random) -> fx.GraphModule:
    b = GraphBuilder()
    weight, bias = b.attr("weight", torch.ones(4, 4)), b.attr("bias", torch.ones(4))
    made = [b.input(), weight]
    for _ in range(12):
        op = drawn.choice(OPS)
        first, second = drawn.choice(made), drawn.choice((*made, 1.0))
        if op is vocab.LINEAR:
            operands = drawn.choice(((first, weight), (first, weight, bias), (first, weight, None)))
            made.append(b.call(op, *operands))
        elif op.elementwise:
            made.append(b.call(op, first))
        else:
            named = {"alpha": 2} if op is vocab.ADD and drawn.random() < 0.3 else {}
            made.append(b.call(op, *drawn.choice(((first, second), (1.0, first))), **named))
    return b.done(*made[2:])


@pytest.mark.parametrize("seed", range(40))
def test_what_is_left_out_comes_to_nothing(seed: int) -> None:
    drawn = random.Random(seed)
    rules = [rule(call(drawn, 3), f"rule_{i}") for i in range(25)]
    graph_module = graph(drawn)
    matcher, alone = Matcher(rules, graph_module), Matcher(rules, graph_module)
    for node in graph_module.graph.nodes:
        near = matcher.rules_for(node)
        assert list(near) == [each for each in rules if each in near], "in order of precedence"
        for each in rules:
            if alone.match(each, node) is not None:
                assert each in near, f"{each.pattern} at {node.format_node()}"


def test_far_rules_have_the_place_where_they_were_first_tried() -> None:
    b = GraphBuilder()
    x = b.input()
    b.done(b.relu(b.tanh(x)), b.relu(b.sigmoid(x)))
    graph_module = b.graph.owning_module or fx.GraphModule(b.owner, b.graph)
    far = rule(Op(vocab.RELU, Op(vocab.GELU, X)), "far")
    near = rule(Op(vocab.RELU, Op(vocab.SIGMOID, W)), "near")
    rewriter = qfx.Rewriter(graph_module, pass_name="p")
    misses = {miss.rule: miss for miss in drive([far, near], rewriter)}
    assert (misses["p/far"].node, misses["p/far"].reason) == ("relu", "expected gelu, found tanh")
    assert misses["p/near"].node == "relu_1"
    assert rewriter.statistics["far"].attempts == 0
    assert rewriter.statistics["near"].attempts == 1


def test_a_thousand_rules_are_tried_where_they_come_near() -> None:
    """However many rules want something else there."""
    ops = [op for op in vocab.ops() if op.elementwise][:10]
    rules = [
        rule(Op(outer, Op(middle, Op(inner, X))), f"{outer} {middle} {inner}")
        for outer in ops
        for middle in ops
        for inner in ops
    ]
    b = GraphBuilder()
    last = b.input()
    for position in range(200):
        last = b.call(ops[position % 3], last)
    rewriter = qfx.Rewriter(b.done(last), pass_name="p")
    drive(rules, rewriter)
    tried = sum(each.attempts for each in rewriter.statistics.values())
    assert len(rules) == 1000
    assert tried == 10 * 199
