"""Faults planted in kernels and passes: conversion finds each of them, and none reaches the user.

Each trial draws a small network, a place and a size of the fault from its seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx.graph import meta
from qfx.numerics.measures import sqnr
from tests.support.planted import with_fault

TRIALS = range(40)
PLACES = (
    *("canonicalize", "fold-constants", "fuse-conv-bn", "fuse-post-ops", "insert-stubs"),
    *("annotate", "place-observers", "settle-joins", "correct-bias"),
)


@torch.fx.wrap
def halve_(x: Tensor) -> None:
    x.mul_(0.5)


class Net(nn.Module):
    """A small network: convolutions, a difference, a call with an effect, a layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        torch.default_generator.manual_seed(seed)
        width = draw.choice((4, 8, 12))
        self.stem = nn.Conv2d(3, width, draw.choice((1, 3)), padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.body = nn.Conv2d(width, width, 3, padding=1, groups=draw.choice((1, 2)))
        self.head = nn.Linear(width, 5)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        y = self.body(x) - x
        halve_(y)
        self.seen.add_(y.abs().max())
        return self.head(y.mean((2, 3)))


def case(seed: int) -> tuple[Net, Tensor]:
    model = Net(seed).eval()
    return model, torch.randn(2, 3, 8, 8)


# -- kernels ---------------------------------------------------------------------------------------
def off_by_one(codes: Tensor, channel: int) -> Tensor:
    """One channel a code off; of floats, by a hundredth of the largest."""
    wrong = codes.clone()
    part = wrong[:, channel % wrong.shape[1]]
    if wrong.is_floating_point():
        part += 0.01 * float(codes.abs().max())
    else:
        part += torch.where(part < 100, 1, -1).to(part.dtype)
    return wrong


def garbage(codes: Tensor, channel: int) -> Tensor:
    wrong: Tensor = codes.flip(1) + 1
    return wrong


@pytest.mark.sweep(first=8)  # of 80, with all seeds
@pytest.mark.parametrize("corrupt", [off_by_one, garbage])
@pytest.mark.parametrize("seed", TRIALS)
def test_a_wrong_kernel_is_put_back_to_float(
    seed: int, corrupt: Callable[[Tensor, int], Tensor]
) -> None:
    model, x = case(seed)
    kind = random.Random(seed).choice((vocab.CONV2D, vocab.LINEAR))
    backend = with_fault("x86", kind, corrupt, more=lambda site: (seed,))
    qmodel = qfx.quantize(model, x, backend=backend)
    put_back = [s for s in qmodel.report.sites if s.reason == "kernel-failed-check"]
    expected = {"Conv2d"} if kind is vocab.CONV2D else {"Linear"}
    assert {s.op for s in put_back} >= expected
    assert all(s.decision == "float" for s in put_back)
    assert "kernel-failed-check" in str(qmodel.report)
    assert sqnr(qmodel.reference(x), qmodel(x)) > 40


# -- passes ----------------------------------------------------------------------------------------
def constants(graph_module: fx.GraphModule) -> list[fx.Node]:
    """Reads of the weights of layers, in float or in integers."""
    return [n for n in graph_module.graph.nodes if n.op == "get_attr" and "weight" in str(n.target)]


def scale_weight(graph: fx.Graph, ctx: qfx.PassContext, draw: random.Random) -> str:
    floats = [n for n in constants(ctx.graph_module) if meta.is_float_tensor(n)]
    node = draw.choice(floats)
    users = [u.name for u in node.users]
    factor = draw.choice((0.9, 1.05, 1.5))
    with ctx.rewriter.at(node):
        scaled = ctx.rewriter.constant("scaled", ctx.rewriter.tensor(node).detach() * factor)
    ctx.rewriter.replace(node, scaled)
    return users[0]


def swap_operands(graph: fx.Graph, ctx: qfx.PassContext, draw: random.Random) -> str:
    node = next(n for n in graph.nodes if n.target is vocab.SUB)
    first, second = node.args[:2]
    node.args = (second, first)
    return str(node.name)


def drop_effect(graph: fx.Graph, ctx: qfx.PassContext, draw: random.Random) -> str:
    node = next(n for n in graph.nodes if n.target is halve_)
    for after in list(node.users):  # the value as the call left it
        after.replace_all_uses_with(after.args[0])
        graph.erase_node(after)
    graph.erase_node(node)
    return str(node.name)


def bad(fault: Callable[[fx.Graph, qfx.PassContext, random.Random], str], seed: int) -> qfx.Pass:
    class Bad(qfx.Pass):
        name = "bad-pass"

        def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
            fault(graph, ctx, random.Random(seed))

    return Bad()


@pytest.mark.sweep(first=9)  # of 120
@pytest.mark.parametrize("fault", [scale_weight, swap_operands, drop_effect])
@pytest.mark.parametrize("seed", TRIALS)
def test_a_pass_that_changes_values_is_named(
    seed: int, fault: Callable[[fx.Graph, Any, random.Random], str]
) -> None:
    model, x = case(seed)
    place = random.Random(seed).choice(PLACES)
    pipeline = qfx.pipelines.static().insert_after(place, bad(fault, seed))
    prepared = qfx.prepare(model, x, backend="x86", pipeline=pipeline)
    qfx.calibrate(prepared, [x])
    with pytest.raises(
        qfx.PassError, match=r"bad-pass.* changes what the model computes"
    ) as raised:
        qfx.convert(prepared)
    assert raised.value.pass_name == "bad-pass"
