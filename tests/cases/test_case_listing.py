"""Every spelling of the listing: what it becomes, its value, and what the report says of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.vocab import Kind, OpDef
from tests.cases import listing
from tests.cases.flow import Branches, less_a_bit, sqnr
from tests.cases.listing import Outcome, Row
from tests.support.once import once

GROUPS = {
    "elementwise": listing.ELEMENTWISE,
    "activations": listing.ACTIVATIONS,
    "norms": listing.NORMS,
    "orders": listing.ORDERS,
    "matrices": listing.MATRICES,
    "losses": listing.LOSSES,
    "products": listing.PRODUCTS,
    "moves": listing.MOVES,
    "outside": listing.OUTSIDE,
}
X86 = "x86"
_NOT_COMPUTED = (Kind.QUANT, Kind.QUERY)
_BOUND = 22.0
"""dB that rounding leaves at least, where a step of the function does not amplify it."""
_AMPLIFIED = (
    *("floor", "ceil", "round", "sign", "argsort", "sort getitem", "bucketize"),
    *("trunc", "frac", "remainder", "fmod", "_along", "median", "slogdet", "mode"),
    *(
        "topk getitem getitem",
        "kthvalue getitem getitem",
        "sum mul",
    ),  # which are largest, how many differ
)


class Between(nn.Module):
    """A function between two layers."""

    def __init__(self, row: Row) -> None:
        super().__init__()
        torch.default_generator.manual_seed(0)
        self.first = nn.Linear(8, 8)
        self.call = row.call
        self.module = getattr(row.call, "kind", nn.Identity)()
        self.scale = nn.Parameter(torch.rand(8) + 0.5)
        self.cube = nn.Parameter(torch.randn(3, 8, 8))
        self.eps = 1e-6
        self.register_buffer("table", torch.randn(2, 8, 8))
        self.register_buffer("identity", 5 * torch.eye(8))
        self.register_buffer("target", torch.rand(2, 8, 8).softmax(-1))
        self.register_buffer("mask", torch.rand(8) > 0.5)
        self.register_buffer("low", torch.rand(8) - 0.5)
        self.register_buffer("high", torch.rand(8) + 0.5)
        self.register_buffer("places", torch.tensor([3, 1, 0]))
        self.register_buffer("labels", torch.randint(1, 8, (8, 1)))
        self.register_buffer("grid", torch.randint(0, 8, (2, 8, 8)))
        with torch.no_grad():
            width = self.eval().middle(torch.randn(2, 8, 8)).flatten(1).shape[1]
        self.last = nn.Linear(width, 4)

    def middle(self, x: Tensor) -> Tensor:
        return self.call(self, self.first(x))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.middle(x).flatten(1))
        return y


@once
def made(name: str, backend: str, method: str) -> tuple[list[Tensor], list[Tensor], Any]:
    """What the rows of a group yield in float and quantized, side by side in one model."""
    rows = GROUPS[name]
    torch.manual_seed(1)
    model, inputs = Branches([Between(row) for row in rows]), [torch.randn(2, 8, 8) for _ in rows]
    qmodel = qfx.quantize(model, (inputs,), backend=backend, method=method)
    with torch.no_grad():
        return model(inputs), qmodel(inputs), qmodel


ALL = [(name, i) for name, rows in GROUPS.items() for i in range(len(rows))]


@pytest.mark.parametrize(("name", "index"), ALL)
def test_x86_does_what_is_listed(name: str, index: int) -> None:
    if X86 not in qfx.backends.available():
        pytest.skip("no x86")
    row, (*_, qmodel) = GROUPS[name][index], made(name, X86, "static")
    assert " ".join(_canonical(qmodel, index)) == row.ops
    reasons = _reasons(qmodel, index)
    if row.outcome is Outcome.MOVED:
        assert set(reasons.values()) <= {"", "removed"}
    else:
        assert row.outcome.value in reasons.values(), reasons


WAYS = ((X86, "static"), (X86, "dynamic"), ("reference", "static"), ("fbgemm", "static"))


@pytest.mark.sweep
@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("way", WAYS)
def test_values(name: str, way: tuple[str, str]) -> None:
    backend, method = way
    if backend not in qfx.backends.available():
        pytest.skip(f"no {backend}")
    expected, actual, qmodel = made(name, backend, method)
    found = {
        f"{i}: {row.ops}": sqnr(one, other)
        for i, (row, one, other) in enumerate(zip(GROUPS[name], expected, actual, strict=True))
        if not any(word in row.ops for word in _AMPLIFIED)
    }
    assert {k: v for k, v in found.items() if v < less_a_bit(_BOUND, backend)} == {}
    assert not [s for s in qmodel.report.sites if s.reason.startswith("kernel-failed")]


def _canonical(qmodel: qfx.QuantizedModel, index: int) -> list[str]:
    """The operations of a branch, between its two layers."""
    names = []
    for node in qmodel.reference.graph.nodes:
        origins = qfx.graph.meta.origins(node)
        inside = origins and f"{origins[-1].module_path}.".startswith(f"branches.{index}.")
        if not inside or not isinstance(node.target, OpDef) or node.target.kind in _NOT_COMPUTED:
            continue
        names.append(node.target.name)
    return names[1:-2]  # without first, flatten and last


def _reasons(qmodel: qfx.QuantizedModel, index: int) -> dict[str, str]:
    """Of every operation of a branch between its layers, why it is float."""
    path = f"branches.{index}"
    inside = [s for s in qmodel.report.sites if f"{s.module_path}.".startswith(f"{path}.")]
    return {s.node: s.reason for s in inside if s.op != "Linear"}
