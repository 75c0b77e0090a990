"""Operators of ATen, and other names of functions, are spellings like any other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import vocab

aten = torch.ops.aten
W, B = torch.randn(4, 4), torch.randn(4)
K = torch.randn(4, 4, 3, 3)


class Called(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.w, self.b, self.k = nn.Parameter(W), nn.Parameter(B), nn.Parameter(K)
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("var", torch.rand(4) + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


CALLS: dict[str, tuple[Callable[..., Tensor], vocab.OpDef]] = {
    "sigmoid": (lambda m, x: aten.sigmoid(x), vocab.SIGMOID),
    "sigmoid.default": (lambda m, x: aten.sigmoid.default(x), vocab.SIGMOID),
    "expit": (lambda m, x: torch.special.expit(x), vocab.SIGMOID),
    "special.softmax": (lambda m, x: torch.special.softmax(x, 1), vocab.SOFTMAX),
    "softmax": (lambda m, x: aten.softmax.int(x, 1), vocab.SOFTMAX),
    "subtract": (lambda m, x: torch.subtract(x, 1.5), vocab.SUB),
    "sub": (lambda m, x: aten.sub.Tensor(x, x * 2, alpha=3), vocab.SUB),
    "add": (lambda m, x: aten.add(x, x), vocab.ADD),
    "mul": (lambda m, x: aten.mul.Scalar(x, 2.0), vocab.MUL),
    "div": (lambda m, x: aten.div.Tensor_mode(x, 2.0, rounding_mode="floor"), vocab.DIV),
    "relu": (lambda m, x: aten.relu.default(x), vocab.RELU),
    "gelu": (lambda m, x: aten.gelu.default(x, approximate="tanh"), vocab.GELU),
    "hardtanh": (lambda m, x: aten.hardtanh.default(x, -2.0), vocab.CLAMP),
    "clamp": (lambda m, x: aten.clamp.default(x, None, 0.5), vocab.CLAMP),
    "linear": (lambda m, x: aten.linear.default(x, m.w, m.b), vocab.LINEAR),
    "addmm": (lambda m, x: aten.addmm.default(m.b, x.flatten(0, 2), m.w.t()), vocab.LINEAR),
    "mm": (lambda m, x: aten.mm.default(x.flatten(0, 2), m.w.t()), vocab.LINEAR),
    "conv2d": (lambda m, x: aten.conv2d.default(x, m.k, None, [2, 2], [1, 1]), vocab.CONV2D),
    "batch_norm": (
        lambda m, x: aten.batch_norm.default(x, m.w[0], m.b, m.mean, m.var, False, 0.1, 1e-3, True),
        vocab.BATCH_NORM,
    ),
    "layer_norm": (lambda m, x: aten.layer_norm.default(x, [4], m.w[0], m.b), vocab.LAYER_NORM),
    "mean": (lambda m, x: aten.mean.dim(x, [2, 3], True), vocab.MEAN),
    "max_pool2d": (lambda m, x: aten.max_pool2d.default(x, [2, 2]), vocab.MAX_POOL2D),
    "view": (lambda m, x: aten.view.default(x, [2, -1]), vocab.RESHAPE),
    "permute": (lambda m, x: aten.permute.default(x, [0, 2, 3, 1]), vocab.PERMUTE),
    "transpose": (lambda m, x: aten.transpose.int(x, 1, 2), vocab.TRANSPOSE),
    "swapdims": (lambda m, x: torch.swapdims(x, 1, 2), vocab.TRANSPOSE),
    "unsqueeze": (lambda m, x: aten.unsqueeze.default(x, 1), vocab.UNSQUEEZE),
    "cat": (lambda m, x: aten.cat.default([x, x], 1), vocab.CAT),
    "expand": (lambda m, x: aten.expand.default(x[:, :1], [2, 3, 4, 4]), vocab.EXPAND),
}


@pytest.mark.parametrize("name", CALLS)
def test_is_a_spelling(name: str) -> None:
    function, op = CALLS[name]
    model, x = Called(function).eval(), torch.randn(2, 4, 4, 4)
    gm, _ = qfx.run_passes(model, [qfx.get_pass("canonicalize")], x)
    assert [n for n in gm.graph.nodes if vocab.is_op(n, op)], gm.graph
    torch.testing.assert_close(gm(x), model(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: aten.elu.default(x, 1.0, 2.0),  # a scale that the operation lacks
        lambda m, x: aten.floor_divide.default(x, 2.0),
        lambda m, x: aten.mean.default(x, dtype=torch.float64),
        lambda m, x: aten.special_i1.default(x),
    ],
)
def test_what_says_more_stays_as_it_was_written(function: Callable[..., Tensor]) -> None:
    model, x = Called(function).eval(), torch.randn(2, 4, 4, 4)
    gm, _ = qfx.run_passes(model, [qfx.get_pass("canonicalize")], x)
    assert [n for n in gm.graph.nodes if str(n.target).startswith("aten.")]
    torch.testing.assert_close(gm(x), model(x))


def test_rules_over_operations_see_them() -> None:
    @qfx.rewrite(qfx.Op(vocab.MUL, qfx.Op(vocab.SIGMOID, qfx.Any("x")), qfx.Any("x")))
    def swish(match: qfx.Match, rw: qfx.Rewriter) -> object:
        return rw.call(vocab.SILU, match["x"])

    class Swish(qfx.PatternPass):
        name = "swish"
        patterns = (swish,)

    x = torch.randn(2, 4)
    for function in (torch.special.expit, aten.sigmoid, aten.sigmoid.default):
        model = Called(lambda m, x, function=function: function(x) * x).eval()
        gm, history = qfx.run_passes(model, [Swish()], x)
        assert history[-1].fired == {"swish/swish": 1}
        torch.testing.assert_close(gm(x), model(x))
