"""``padding=self.w.shape[-1] // 2`` was a PassError: a refusal, which is falsy, got lost.

An attribute that a parameter's shape gives is a constant; one that an input's gives is a reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded, sqnr
from tests.support.sources import SOURCES, nodes


class Filter(nn.Module):
    """As Mamba writes its convolution."""

    def __init__(self, attribute: str) -> None:
        super().__init__()
        self.attribute = attribute
        self.weight = nn.Parameter(torch.randn(6, 1 if attribute == "groups" else 3, 5))

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        given = {"padding": w.shape[-1] // 2, "stride": w.dim() - 1, "dilation": w.size(2) // 2}
        given["groups"] = len(w) // 2
        return F.conv1d(x, w, **{self.attribute: given[self.attribute]})


@pytest.mark.parametrize("attribute", ["padding", "stride", "dilation", "groups"])
def test_attributes_from_a_parameter_are_constant(attribute: str) -> None:
    model, x = seeded(lambda: Filter(attribute)), randn(2, 3, 16)
    captured, _ = qfx.run_passes(model, [], x)
    assert [n.name for n in captured.graph.nodes] == ["x", "weight", "conv1d", "output"]
    quantized = qfx.quantize(model, x)
    assert quantized.report.coverage == 1.0
    other = randn(3, 3, 24)
    assert torch.equal(captured(other), model(other))
    assert sqnr(model(other), quantized(other)) > 20


class FromInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 3, 3)
        self.weight = nn.Parameter(torch.randn(6, 3, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return F.conv1d(x, self.weight, padding=x.shape[-1] // 4)


def test_attributes_from_an_input_are_a_reason() -> None:
    model = seeded(FromInput)
    quantized = qfx.quantize(model, randn(2, 3, 18))
    site = next(s for s in quantized.report.sites if s.node == "conv1d")
    assert (site.decision, site.reason) == ("float", "unknown-form")
    assert "its padding is computed when the model runs" in site.message
    assert quantized(randn(2, 3, 26)).shape == model(randn(2, 3, 26)).shape


# -- the kind: nothing asks whether a Mismatch is true ---------------------------------------------
def _called(node: ast.expr) -> str:
    if not isinstance(node, ast.Call):
        return ""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _truths(path: Path) -> Iterator[ast.expr]:
    """What a file takes for true or false."""
    for node in nodes(path):
        if isinstance(node, ast.BoolOp):
            yield from node.values[:-1]
        elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
            yield node.test
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node.operand


def test_no_refusal_is_taken_for_none() -> None:
    """``refusal(a) or refusal(b)`` throws the first one away."""
    refusing = {
        node.name
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef)
        and node.returns is not None
        and "Mismatch" in ast.unparse(node.returns)
        and "None" in ast.unparse(node.returns)
    }.difference(dir(str))  # ", ".join(names) refuses nothing, whatever else is called join
    lost = [
        f"{path.name}:{node.lineno}"
        for path in SOURCES
        for node in _truths(path)
        if _called(node) in refusing
    ]
    assert "expand_product" in refusing
    assert lost == []
