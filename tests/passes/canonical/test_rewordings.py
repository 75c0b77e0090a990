"""Functions that torch has beside those of the vocabulary, and where they are left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import vocab
from qfx.testing.checking import run
from qfx.vocab import OpDef
from qfx_passes import Canonicalize
from tests.passes.canonical.canonical_forms import (
    Lambda,
    calls,
    canonical,
    check_family,
    image,
    notes,
)

X = (2, 4, 6, 6)
_Spelling = Callable[[Any, Tensor], object]


def unpacked(m: object, x: Tensor) -> Tensor:
    values, _ = x.max(1)
    return values * 2


def spread(m: object, x: Tensor) -> Tensor:
    std, mean = torch.std_mean(x, 1)
    return std - mean


def overwritten(m: object, x: Tensor) -> Tensor:
    values = x.max(1)[0]
    values.relu_()
    return values + 1


REWORDED: list[tuple[list[OpDef], _Spelling]] = [
    ([vocab.MAXIMUM], lambda m, x: torch.max(x, x)),
    ([vocab.MINIMUM], lambda m, x: x.min(other=x)),
    ([vocab.AMAX], lambda m, x: x.max()),
    ([vocab.AMAX], lambda m, x: torch.max(x, 1, True)[0]),
    ([vocab.AMAX], lambda m, x: x.max(dim=-1).values),
    ([vocab.AMIN], lambda m, x: torch.min(x, dim=1, keepdim=True)[-2]),
    ([vocab.AMAX, vocab.MUL], unpacked),
    ([vocab.AMAX, vocab.RELU, vocab.ADD], overwritten),
    ([vocab.MAXIMUM, vocab.MINIMUM], lambda m, x: x.clamp(x, x)),
    ([vocab.MINIMUM], lambda m, x: torch.clamp(x, max=x)),
    ([vocab.MAXIMUM], lambda m, x: torch.clamp_min(x, x)),
    ([vocab.MAX_ALONG], lambda m, x: x.max(1)),
    (
        [vocab.AMAX, vocab.MIN_ALONG, vocab.GETITEM, vocab.MUL],
        lambda m, x: x.max(1)[0] * x.min(1)[1],
    ),
    ([vocab.VAR], lambda m, x: x.var()),
    ([vocab.VAR], lambda m, x: x.var(False)),
    ([vocab.VAR], lambda m, x: torch.var(x, (1, 2), True, True)),
    ([vocab.STD], lambda m, x: torch.std(x, dim=1, correction=0)),
    ([vocab.VECTOR_NORM], lambda m, x: x.norm()),
    ([vocab.VECTOR_NORM], lambda m, x: x.norm(1, 1, keepdim=True)),
    ([vocab.VECTOR_NORM], lambda m, x: torch.norm(x, "fro", (2, 3))),
    ([vocab.VECTOR_NORM], lambda m, x: torch.linalg.norm(x, 3, dim=1)),
    ([vocab.VECTOR_NORM], lambda m, x: torch.linalg.norm(x, 3, dim=(1,))),
    ([vocab.VECTOR_NORM], lambda m, x: torch.linalg.norm(x, 1, dim=[-1], keepdim=True)),
    ([vocab.MATRIX_NORM], lambda m, x: torch.linalg.norm(x, 2, (2, 3))),
    ([vocab.SORT_VALUES], lambda m, x: x.sort()[0]),
    ([vocab.TOPK_VALUES], lambda m, x: torch.topk(x, 2, 1).values),
    ([vocab.TOPK, vocab.GETITEM], lambda m, x: x.topk(2, sorted=False)[0]),
    ([vocab.SORT, vocab.GETITEM], lambda m, x: torch.sort(x, descending=True).indices),
    ([vocab.GETITEM, vocab.GETITEM, vocab.SUB], lambda m, x: torch.diff(x, dim=1)),
    ([vocab.GETITEM, vocab.GETITEM, vocab.SUB] * 2, lambda m, x: x.diff(2)),
    (
        [vocab.GETITEM, vocab.GETITEM, *(vocab.ROLL, vocab.ROLL, vocab.MUL) * 2, vocab.SUB],
        lambda m, x: torch.cross(x[:, :3], x[:, 1:], dim=1),
    ),
    ([vocab.STD, vocab.MEAN, vocab.SUB], spread),
    ([vocab.NEG, vocab.SOFTMAX], lambda m, x: F.softmin(x, 1)),
    ([vocab.NEG, vocab.SOFTMAX], lambda m, x: nn.Softmin(-1)(x)),
    ([vocab.SUB], lambda m, x: torch.rsub(x, 2.0)),
    ([vocab.MUL, vocab.ADD], lambda m, x: torch.addcmul(x, x, x)),
    ([vocab.MUL, vocab.MUL, vocab.ADD], lambda m, x: x.addcmul(x, x, value=0.5)),
    ([vocab.LEAKY_RELU], lambda m, x: F.rrelu(x, 0.1, 0.3)),
    ([vocab.LEAKY_RELU], lambda m, x: nn.RReLU(0.1, 0.3).eval()(x)),
    ([vocab.FLIP, vocab.TRANSPOSE], lambda m, x: x.rot90(1, (2, 3))),
    ([vocab.FLIP], lambda m, x: torch.rot90(x, -2, [2, 3])),
    ([vocab.TENSOR_SPLIT], lambda m, x: x.tensor_split(indices=(1, 2), dim=1)),
]
LEFT: list[tuple[_Spelling, str]] = [
    (lambda m, x: torch.norm(x[0, 0], "nuc"), "a norm of matrices"),
    (lambda m, x: torch.var_mean(x, 1), "its results are read together"),
    (lambda m, x: torch.cross(x[:, :3], x[:, :3]), "along a dim that is not named"),
    (lambda m, x: x.diff(x.shape[0]), "so many times as is computed"),
    (lambda m, x: (x > 0).diff() | (x > 1)[..., 1:], "differences of truths"),
    (lambda m, x: torch.unique(x), "how much it yields depends on the data"),
    (lambda m, x: x.masked_select(x > 0), "how much it yields depends on the data"),
    (lambda m, x: x.rot90(x.shape[0], (2, 3)), "turns or dims that are computed"),
    (lambda m, x: torch.where(x > 0), "places where a condition holds"),
    (lambda m, x: x.tensor_split(torch.tensor([1, 2]), 1), "a tensor of sections"),
]


@pytest.mark.parametrize(("ops", "spelling"), REWORDED)
def test_rewordings(ops: list[OpDef], spelling: _Spelling) -> None:
    result = canonical(spelling, image(*X), atol=1e-5)
    assert calls(result) == ops
    assert not notes(result)


@pytest.mark.parametrize(("spelling", "reason"), LEFT)
def test_what_is_left_says_why(spelling: _Spelling, reason: str) -> None:
    assert any(reason in note for note in notes(canonical(spelling, image(*X))))


class Bounded(nn.Module):
    """Clamps by buffers, which checkpoints fill."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(torch.clamp(x, self.low, self.high))
        return y


@pytest.mark.parametrize(
    ("low", "high", "ops"),
    [
        (-torch.inf, torch.inf, []),
        (-1.0, torch.inf, [vocab.MAXIMUM]),
        (-torch.inf, 1.0, [vocab.MINIMUM]),
        (torch.inf, torch.inf, [vocab.MAXIMUM]),
    ],
)
def test_infinite_bounds_clamp_nothing(low: float, high: float, ops: list[OpDef]) -> None:
    model, x = Bounded(low, high).eval(), torch.randn(4, 8)
    graph_module, _ = qfx.run_passes(model, [qfx.get_pass("canonicalize")], x)
    assert [n.target for n in graph_module.graph.nodes if n.op == "call_function"] == [
        *ops,
        vocab.LINEAR,
    ]
    if low < high:
        assert qfx.quantize(model, x, backend="reference").report.coverage == 1.0


def test_in_training_the_gradient_of_equal_values_goes_to_one() -> None:
    model = Lambda(lambda m, x: x.max(1)[0])
    result = run(Canonicalize(trainable=True), model, image(*X))
    assert calls(result) == [vocab.MAX_ALONG, vocab.GETITEM]


BEFORE = """\
%x       : f32[2,3]             = input
%norm    : f32[2,1]             = .norm(%x, dim=-1, keepdim=True)
%max_1   : (f32[2,1], i64[2,1]) = .max(%x, -1, True)
%getitem : f32[2,1]             = operator.getitem(%max_1, 0)
%mul     : f32[2,1]             = operator.mul(%norm, %getitem)
return %mul
"""
AFTER = """\
%x     : f32[2,3] = input
%norm  : f32[2,1] = vector_norm(%x, dim=-1, keepdim=True)
%max_2 : f32[2,1] = amax(%x, dim=-1, keepdim=True)
%mul   : f32[2,1] = mul(%norm, %max_2)
return %mul
"""
LEFT_OUT = """\
%x       : f32[2,3]             = input
%norm    : f32[2,1]             = .norm(%x, dim=-1, keepdim=True)
%max_1   : (f32[2,1], i64[2,1]) = .max(%x, -1, True)
%getitem : f32[2,1]             = getitem(%max_1, 0)
%mul     : f32[2,1]             = mul(%norm, %getitem)
return %mul
"""


def test_text() -> None:
    model = Lambda(lambda m, x: x.norm(dim=-1, keepdim=True) * x.max(-1, True)[0])
    check_family("reductions", model, image(2, 3), BEFORE, AFTER, LEFT_OUT)
