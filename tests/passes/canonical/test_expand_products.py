"""Products with constant matrices, however they are written."""

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
from qfx_passes.canonical.canonicalize import Canonicalize
from tests.cases.flow import randn, seeded, sqnr, targets
from tests.passes.canonical.canonical_forms import (
    Lambda,
    Lambda2,
    calls,
    canonical,
    check_family,
    image,
    notes,
)

BACKENDS = ("x86", "fbgemm", "qnnpack", "reference")


class Products(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(randn(8, 5)), nn.Parameter(randn(5))

    def forward(self, x: Tensor) -> Tensor:
        first = torch.clamp_min(x @ self.w, 0) + torch.addmm(self.b, x, self.w)
        return first + x.matmul(self.w) + torch.mm(x, mat2=self.w)


class Head(nn.Module):
    """An output layer that is the transpose of the embedding, as language models write it."""

    def __init__(self, write: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.bias, self.write = nn.Embedding(20, 8), nn.Parameter(randn(20)), write

    def forward(self, i: Tensor) -> Tensor:
        return self.write(self.embed(i), self.embed.weight, self.bias)


HEADS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "t": lambda x, w, b: x @ w.t(),
    "T": lambda x, w, b: x.matmul(w.T),
    "mT": lambda x, w, b: torch.mm(x, mat2=w.mT),
    "transpose": lambda x, w, b: x.mm(w.transpose(-1, 0)),
    "permute": lambda x, w, b: torch.matmul(x, w.permute(-1, 0)),
    "addmm": lambda x, w, b: torch.addmm(b, x, w.t()),
}


class Between(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ x.transpose(-1, -2)


class Vector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.w = nn.Linear(4, 4), nn.Parameter(randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.linear(x), self.w)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_constant_matrix_is_a_shared_weight(backend: str) -> None:
    model, x = seeded(Products), randn(6, 8)
    qmodel = qfx.quantize(model, x, backend=backend)
    assert qmodel.report.coverage == 1
    assert sqnr(model(x), qmodel(x)) > 30
    assert sum(n.endswith("_q") for n, _ in qmodel.reference.named_buffers()) == 1


@pytest.mark.sweep
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", ["dynamic", "weight_only"])
@pytest.mark.parametrize("name", HEADS)
def test_a_transposed_parameter_is_the_weight_itself(name: str, method: str, backend: str) -> None:
    model, x = seeded(Head, HEADS[name]), torch.arange(6)
    qmodel = qfx.quantize(model, x, method=method, backend=backend)
    assert {s.decision for s in qmodel.report.sites if s.reason != "removed"} == {"quantized"}
    assert sqnr(model(x), qmodel(x)) > 30
    kept = [t for n, t in qmodel.reference.named_buffers() if t.dtype == torch.int8 and t.dim() > 1]
    assert len(kept) == 1  # one weight, read by the embedding and the layer


def test_a_transposed_parameter_may_train() -> None:
    model, x = seeded(Head, HEADS["t"]), torch.arange(6)
    graph_module, _ = qfx.run_passes(model, [Canonicalize(trainable=True)], (x,))
    assert targets(graph_module) == [vocab.EMBEDDING, vocab.LINEAR]
    assert [n for n, _ in graph_module.named_parameters()] == ["embed.weight"]


def test_a_matrix_in_its_own_order_is_not_transposed() -> None:
    square = nn.Parameter(randn(8, 8))

    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = square

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w.permute(0, 1) + x @ self.w.transpose(1, -1) + x @ self.w.permute(1, 0)

    gm, _ = qfx.run_passes(Square().eval(), [Canonicalize()], (randn(3, 8),))
    assert targets(gm).count(vocab.LINEAR) == 1
    assert torch.allclose(gm(randn(3, 8)), Square()(randn(3, 8)))


def test_what_is_no_constant_stays_a_matmul() -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), Between()).eval(), randn(6, 8)
    assert vocab.MATMUL in targets(qfx.quantize(model, x, backend="reference").reference)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_vector_is_no_weight(backend: str) -> None:
    model, x = seeded(Vector), randn(2, 5, 4)
    qmodel = qfx.quantize(model, x, backend=backend)
    assert [s.decision for s in qmodel.report.sites] == ["quantized", "float"]
    assert sqnr(model(x), qmodel(x)) > 30


@pytest.mark.sweep
@pytest.mark.parametrize("shape", [(2, 0, 4), (0, 3, 4), (0, 4), (2, 3, 0, 4)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_keeps_its_shape(shape: tuple[int, ...], backend: str) -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    example = randn(*(max(1, n) for n in shape))
    qmodel = qfx.quantize(model, example, backend=backend)
    assert qmodel(torch.zeros(shape)).shape == (*shape[:-1], 2)


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
    assert calls(result) == [vocab.ARRANGE, vocab.LINEAR]
    assert {n for n, _ in result.graph_module.named_parameters()} == {"0.weight", "0.bias"}


@pytest.mark.parametrize(
    ("function", "ops"),
    [
        (lambda m, x, y: torch.addmm(x, x, y, beta=2), [vocab.MATMUL, vocab.MUL, vocab.ADD]),
        (lambda m, x, y: x.addmm(x, y, alpha=0.5), [vocab.MATMUL, vocab.MUL, vocab.ADD]),
        (lambda m, x, y: torch.addmm(x / 0, x, y, beta=0), [vocab.MATMUL]),
    ],
)
def test_addmm_with_a_scale_is_the_product_scaled(function: Any, ops: list[OpDef]) -> None:
    result = canonical(Lambda2(function), image(3, 3), image(3, 3, seed=1), atol=1e-6)
    assert calls(result) == ops


BEFORE = """\
%x      : f32[2,3] = input
%einsum : f32[2,2] = torch.functional.einsum('ij,kj->ik', %x, %x)
return %einsum
"""

AFTER = """\
%x        : f32[2,3] = input
%einsum_1 : f32[3,2] = transpose(%x, dim0=-2, dim1=-1)
%einsum   : f32[2,2] = matmul(%x, %einsum_1)
return %einsum
"""

LEFT_OUT = """\
%x      : f32[2,3] = input
%einsum : f32[2,2] = torch.functional.einsum('ij,kj->ik', %x, %x)
return %einsum
"""


def test_before_and_after() -> None:
    model = Lambda(lambda m, x: torch.einsum("ij,kj->ik", x, x))
    check_family("expand-products", model, image(2, 3), BEFORE, AFTER, LEFT_OUT)


@pytest.mark.parametrize("name", ["inner", "dot", "vdot", "addmm", "baddbmm", "addmv", "matmul"])
def test_a_module_that_is_called_like_a_product_is_what_it_is(name: str) -> None:
    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(name, nn.Conv2d(3, 4, 1))

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = getattr(self, name)(x)
            return made

    x = torch.randn(1, 3, 4, 4)
    qmodel = qfx.quantize(Owner().eval(), x, backend="reference")
    (site,) = qmodel.report.sites
    assert (site.node, site.decision) == (name, "quantized")
