"""Sizes and numbers that Python computes with are queries."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import Tensor, nn

from qfx import vocab
from qfx.testing.checking import run
from qfx_passes.canonical.canonicalize import Canonicalize
from tests.passes.canonical.canonical_forms import (
    Lambda,
    X,
    assert_same,
    calls,
    canonical,
    check_family,
    image,
    notes,
)


def test_sizes_are_queries() -> None:
    result = canonical(lambda m, x: x.view(x.shape[0], x.size(1) * 6, -1), image(*X))
    sizes = [vocab.SIZE, vocab.SIZE, vocab.SCALARS[operator.mul]]
    assert calls(result) == [*sizes, vocab.RESHAPE]
    assert_same(
        result, Lambda(lambda m, x: x.view(x.shape[0], x.size(1) * 6, -1)), image(3, 5, 6, 6)
    )


def test_ranks_are_queries() -> None:
    function = Lambda(lambda m, x: x.flatten(x.ndim - 1) * x.ndim + x.dim())
    result = canonical(function, image(2, 3))
    assert calls(result).count(vocab.DIM) == 3
    assert_same(result, function, image(2, 3, 4))


def test_a_rank_that_python_needs_is_guarded() -> None:
    result = canonical(lambda m, x: x * len(x.shape), image(2, 3))
    assert calls(result) == [vocab.DIM, vocab.GUARD, vocab.MUL]


def test_a_module_that_returns_indices_stays() -> None:
    pool = nn.AdaptiveMaxPool2d(1, return_indices=True)
    result = canonical(lambda m, x: m.pool(x)[1], image(*X), pool=pool)
    assert calls(result) == ["pool", vocab.GETITEM]
    assert "the indices are returned" in notes(result)[0]


def test_numbers_alone_are_no_tensor_arithmetic() -> None:
    result = canonical(lambda m, x: x + (x.shape[0] + 1) // 2, image(*X))
    scalars = [vocab.SCALARS[operator.add], vocab.SCALARS[operator.floordiv]]
    assert calls(result) == [vocab.SIZE, *scalars, vocab.ADD]


class Merge(nn.Module):
    """Merges the last two dimensions by a torch.Size, as encoders merge their heads."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method

    def forward(self, x: Tensor) -> Tensor:
        merged = x.size()[:-2] + (x.shape[-2] * x.shape[-1],)  # noqa: RUF005 - as people write it
        return getattr(x, self.method)(merged)


@pytest.mark.parametrize("method", ["reshape", "view"])
def test_a_sum_of_sizes_is_a_shape(method: str) -> None:
    model = Merge(method).eval()
    result = run(Canonicalize(), model, torch.randn(2, 3, 4, 5))
    for shape in ((2, 3, 4, 5), (7, 2, 3, 4)):
        x = torch.randn(*shape)
        assert torch.equal(result.graph_module(x), model(x))


BEFORE = """\
%x         : f32[2,3] = input
%getattr_1 : (_, _)   = getattr(%x, 'shape')
%getitem              = operator.getitem(%getattr_1, 0)
%view      : f32[2,3] = .view(%x, %getitem, -1)
return %view
"""

AFTER = """\
%x       : f32[2,3] = input
%getitem            = size(%x, dim=0)
%view    : f32[2,3] = reshape(%x, shape=(%getitem, -1))
return %view
"""

LEFT_OUT = """\
%x         : f32[2,3] = input
%getattr_1 : (_, _)   = getattr(%x, 'shape')
%getitem              = getitem(%getattr_1, 0)
%view      : f32[2,3] = reshape(%x, shape=(%getitem, -1))
return %view
"""


def test_before_and_after() -> None:
    model = Lambda(lambda m, x: x.view(x.shape[0], -1))
    check_family("sizes", model, image(2, 3), BEFORE, AFTER, LEFT_OUT)
