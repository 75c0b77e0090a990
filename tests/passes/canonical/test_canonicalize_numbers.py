"""Products and numbers of sizes in canonical form."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import Tensor, nn

from qfx import vocab
from qfx_passes.canonical.canonicalize import Canonicalize
from tests.passes.canonical.canonical_forms import (
    Lambda,
    Lambda2,
    X,
    assert_same,
    calls,
    canonical,
    image,
    notes,
    only,
)
from tests.support.checking import run

EINSUMS = {
    "bhid,bhjd->bhij": [vocab.TRANSPOSE, vocab.MATMUL],
    "b h i j, b h j d -> b h i d": [vocab.MATMUL],
    "bihd,bjhd->bihj": [vocab.PERMUTE, vocab.PERMUTE, vocab.MATMUL, vocab.PERMUTE],
}


@pytest.mark.parametrize("equation", EINSUMS)
def test_einsum_is_matmul(equation: str) -> None:
    shape = (2, 3, 3, 3)
    function = Lambda2(lambda m, x, y: torch.einsum(equation, x, y))
    result = canonical(function, image(*shape), image(*shape, seed=1), atol=1e-6)
    assert calls(result) == EINSUMS[equation]


def test_einsum_that_is_no_matmul_stays() -> None:
    function = Lambda2(lambda m, x, y: torch.einsum("ii,ij->ij", x, y))
    result = canonical(function, image(3, 3), image(3, 3, seed=1))
    assert calls(result) == [torch.einsum]
    assert "takes a diagonal" in notes(result)[0]


class Conv1D(nn.Module):
    """The linear layer of GPT-2: its weight is transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(image(3, 4)), nn.Parameter(image(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


def test_addmm_of_parameters_is_linear() -> None:
    result = canonical(nn.Sequential(Conv1D()).eval(), image(2, 3), atol=1e-6)
    assert calls(result) == [vocab.LINEAR]
    shapes = {name: tuple(t.shape) for name, t in result.graph_module.state_dict().items()}
    assert shapes == {"0.weight_1": (4, 3), "0.bias": (4,)}


def test_addmm_in_training_keeps_its_parameters() -> None:
    result = run(Canonicalize(trainable=True), nn.Sequential(Conv1D()), image(2, 3))
    assert calls(result) == [vocab.MATMUL, vocab.ADD]
    assert {n for n, _ in result.graph_module.named_parameters()} == {"0.weight", "0.bias"}


def test_addmm_with_a_scale_stays() -> None:
    function = Lambda2(lambda m, x, y: torch.addmm(x, x, y, beta=2))
    result = canonical(function, image(3, 3), image(3, 3, seed=1))
    assert calls(result) == [torch.addmm]
    assert notes(result) == ["addmm with a scale"]


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


def test_assertions_are_guards() -> None:
    def asserts(m: object, x: Tensor) -> Tensor:
        torch._assert(x.shape[1] == 4, "four channels")
        return x + 1

    result = canonical(asserts, image(*X))
    found = only(result, vocab.GUARD)
    assert found == {"expected": True, "what": "four channels", "asserted": True}


def test_dead_code_goes_and_guards_stay() -> None:
    def dead(m: object, x: Tensor) -> Tensor:
        x.sigmoid()
        if x.shape[0] > 1:
            return x + 1
        return x

    greater = vocab.SCALARS[operator.gt]
    assert calls(canonical(dead, image(*X))) == [vocab.SIZE, greater, vocab.GUARD, vocab.ADD]
