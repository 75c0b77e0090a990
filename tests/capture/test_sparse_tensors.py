"""Sparse tensors that a model takes, keeps, makes and returns."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded, sqnr

FORWARDS: dict[str, Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]] = {
    "takes": lambda m, y, coo, csr: torch.sparse.mm(coo, y),
    "multiplies": lambda m, y, coo, csr: csr @ y,
    "keeps": lambda m, y, coo, csr: torch.sparse.mm(m.adjacency, y),
    "makes": lambda m, y, coo, csr: y.relu().to_sparse().to_dense(),
    "returns": lambda m, y, coo, csr: y.to_sparse(),
    "returns csr": lambda m, y, coo, csr: y.to_sparse_csr(),
}


class Graph(nn.Module):
    adjacency: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("adjacency", torch.eye(8).to_sparse())

    def forward(self, x: Tensor, coo: Tensor, csr: Tensor) -> list[Tensor]:
        return [f(self, self.linear(x), coo, csr) for f in FORWARDS.values()]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize(
    ("backend", "method"),
    [("x86", "static"), ("x86", "dynamic"), ("reference", "static"), ("fbgemm", "static")],
)
def test_sparse_tensors_are_as_in_the_model(backend: str, method: str) -> None:
    model, x = seeded(Graph), randn(8, 4)
    inputs = (x, torch.eye(8).to_sparse(), (2 * torch.eye(8)).to_sparse_csr())
    qmodel = qfx.quantize(model, inputs, backend=backend, method=method)
    with torch.no_grad():
        for expected, got in zip(model(*inputs), qmodel(*inputs), strict=True):
            assert expected.layout == got.layout
            assert sqnr(expected.to_dense(), got.to_dense()) > 25
    (site,) = [s for s in qmodel.report.sites if s.reason == "sparse"]
    assert site.op == "matmul"
    assert "to_dense" in site.remedy
    assert {s.decision for s in qmodel.report.sites if s.op == "Linear"} == {"quantized"}
