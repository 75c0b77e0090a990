"""Products with constant matrices, however they are written."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import vocab
from tests.cases.flow import randn, seeded, sqnr, targets

BACKENDS = ("x86", "fbgemm", "qnnpack", "reference")


class Products(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(randn(8, 5)), nn.Parameter(randn(5))

    def forward(self, x: Tensor) -> Tensor:
        first = torch.clamp_min(x @ self.w, 0) + torch.addmm(self.b, x, self.w)
        return first + x.matmul(self.w) + torch.mm(x, mat2=self.w)


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


def test_what_is_no_constant_stays_a_matmul() -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), Between()).eval(), randn(6, 8)
    assert vocab.MATMUL in targets(qfx.quantize(model, x, backend="reference").reference)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_vector_is_no_weight(backend: str) -> None:
    model, x = seeded(Vector), randn(2, 5, 4)
    qmodel = qfx.quantize(model, x, backend=backend)
    assert [s.decision for s in qmodel.report.sites] == ["quantized", "float"]
    assert sqnr(model(x), qmodel(x)) > 30


@pytest.mark.parametrize("shape", [(2, 0, 4), (0, 3, 4), (0, 4), (2, 3, 0, 4)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_keeps_its_shape(shape: tuple[int, ...], backend: str) -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    example = randn(*(max(1, n) for n in shape))
    qmodel = qfx.quantize(model, example, backend=backend)
    assert qmodel(torch.zeros(shape)).shape == (*shape[:-1], 2)
