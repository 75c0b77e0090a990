"""Reductions that torch writes otherwise than the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from qfx import vocab
from qfx.testing import check
from qfx.vocab import OpDef
from qfx_passes.canonical.canonicalize import Canonicalize
from tests.passes.canonical.canonical_forms import Lambda, calls, canonical, image, notes

_Reduction = Callable[[Any, Tensor], Any]

REDUCTIONS: dict[str, tuple[_Reduction, tuple[OpDef, ...]]] = {
    "max of two": (lambda m, x: torch.max(x, -x), (vocab.NEG, vocab.MAXIMUM)),
    "max of all": (lambda m, x: x.max(), (vocab.AMAX,)),
    "values of max": (lambda m, x: x.max(1).values, (vocab.AMAX,)),
    "sorted values": (lambda m, x: x.sort(-1)[0], (vocab.SORT_VALUES,)),
    "var": (lambda m, x: x.var(1, unbiased=False), (vocab.VAR,)),
    "norm": (lambda m, x: torch.norm(x, 2, 1), (vocab.VECTOR_NORM,)),
    "dist": (lambda m, x: torch.dist(x, x + 1), (vocab.ADD, vocab.SUB, vocab.VECTOR_NORM)),
    "trace": (lambda m, x: x[:3, :3].trace(), (vocab.GETITEM, vocab.DIAGONAL, vocab.SUM)),
}


@pytest.mark.parametrize(("model", "ops"), REDUCTIONS.values(), ids=REDUCTIONS)
def test_what_they_become(model: _Reduction, ops: tuple[OpDef, ...]) -> None:
    assert tuple(calls(canonical(model, image(3, 4), atol=1e-6))) == ops


def test_the_values_of_an_extreme() -> None:
    check(
        Canonicalize(),
        Lambda(lambda m, x: x.max(dim=1)[0]),
        image(3, 4),
        before="""
            %x       : f32[3,4]         = input
            %max_1   : (f32[3], i64[3]) = .max(%x, dim=1)
            %getitem : f32[3]           = operator.getitem(%max_1, 0)
            return %getitem
        """,
        after="""
            %x     : f32[3,4] = input
            %max_2 : f32[3]   = amax(%x, dim=1)
            return %max_2
        """,
    )


NEAR_MISSES: dict[str, tuple[_Reduction, str]] = {
    "median and where": (lambda m, x: x.median(1)[1], "where the values were is read, too"),
    "norm in another dtype": (
        lambda m, x: torch.norm(x, dtype=torch.float64),
        "a norm of matrices",
    ),
}


@pytest.mark.parametrize(("model", "reason"), NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_near_misses(model: _Reduction, reason: str) -> None:
    assert reason in notes(canonical(model, image(3, 4)))
