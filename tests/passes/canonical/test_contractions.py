"""Products along named dims are the equations that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import vocab
from qfx.testing.checking import run
from qfx_passes.canonical.canonicalize import Canonicalize
from tests.passes.canonical.canonical_forms import calls, canonical, image, notes

_Product = Callable[[Any, Tensor, Tensor], Tensor]


def _conjugating(product: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    return torch.view_as_real(product(torch.complex(x, y), torch.complex(y, x * 2)))


PRODUCTS: dict[str, _Product] = {
    "inner": lambda m, x, y: torch.inner(x, y),
    "inner of a vector": lambda m, x, y: y[0, 0].inner(x),
    "dot": lambda m, x, y: x[0, 0].dot(y[0, 1]),
    "vdot": lambda m, x, y: torch.vdot(x[0, 0], y[0, 1]),
    "vecdot": lambda m, x, y: torch.linalg.vecdot(x, y, dim=1),
    "tensordot": lambda m, x, y: torch.tensordot(x, y.permute(1, 2, 0)),
    "tensordot of pairs": lambda m, x, y: torch.tensordot(x, y, dims=([2, 0], [2, 0])),
    "tensordot of nothing": lambda m, x, y: torch.tensordot(x[0], y[1], dims=0),
    "addbmm": lambda m, x, y: torch.addbmm(x[0, :, :3], x, y.mT, beta=0.5),
    "addmv": lambda m, x, y: x[0, 0, :3].addmv(x[0], y[0, 0], alpha=2),
    "addr": lambda m, x, y: torch.addr(x[0], y[0, :, 0], x[0, 0]),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_is_a_product(name: str) -> None:
    result = canonical(PRODUCTS[name], image(2, 3, 4), image(2, 3, 4, seed=1), atol=1e-5)
    assert {vocab.MATMUL, vocab.OUTER, vocab.MUL} & set(calls(result))
    assert not notes(result)


LEFT: dict[str, tuple[_Product, str]] = {
    "inner": (lambda m, x, y: torch.inner(x, y.sum()), "an inner product with a number"),
    "vecdot": (lambda m, x, y: torch.linalg.vecdot(x, y[0]), "rows of tensors of other ranks"),
    "complex vecdot": (lambda m, x, y: _conjugating(torch.linalg.vecdot, x, y), "the conjugate"),
    "vdot": (lambda m, x, y: _conjugating(torch.vdot, x[0, 0], y[0, 0]), "the conjugate"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_says_why(name: str) -> None:
    product, reason = LEFT[name]
    result = canonical(product, image(2, 3, 4), image(2, 3, 4, seed=1))
    assert any(reason in note for note in notes(result))


class Projection(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(image(2, 5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensordot(x, self.weight, dims=([-1], [2]))


@pytest.mark.parametrize("trainable", [False, True])
def test_a_parameter_is_the_weight_of_a_layer(trainable: bool) -> None:
    result = run(Canonicalize(trainable=trainable), Projection(), image(2, 3, 4))
    assert vocab.LINEAR in calls(result)


def test_it_is_quantized() -> None:
    quantized = qfx.quantize(Projection().eval(), image(2, 3, 4), backend="reference")
    assert quantized.report.coverage == 1
