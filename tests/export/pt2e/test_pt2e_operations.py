"""Every operation in a program computes what it does in the model, with the operators it names."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import qfx
from qfx import vocab
from qfx.export.pt2e.operators_of import operators_of
from qfx.vocab import OpDef
from tests.export.onnx.test_operations import NAMES, WEIGHTS, X, models

_AROUND = {"new_zeros", "transpose", "_assert_tensor_metadata"}
"""What stands around a recurrent layer or a conversion, and belongs to it."""


@cache
def exported(name: str) -> tuple[qfx.QuantizedModel, torch.export.ExportedProgram]:
    mapping = qfx.QConfigMapping().set_module_name("layer", WEIGHTS)
    options: dict[str, Any] = {"method": "weight_only", "backend": "reference", "check": False}
    qmodel = qfx.quantize(models()[name].eval(), X, qconfig=mapping, **options)
    return qmodel, qfx.export_pt2e(qmodel, X)


def used(name: str) -> dict[OpDef, set[str]]:
    """The operators that each operation of a model became."""
    qmodel, program = exported(name)
    targets = {node.name: node.target for node in qmodel.reference.graph.nodes}
    found: dict[OpDef, set[str]] = {}
    for node in program.graph.nodes:
        target = targets.get(node.meta.get("custom", {}).get("qfx.node", ""))
        space, _, operator = str(node.target).partition(".")
        if isinstance(target, OpDef) and node.op == "call_function" and space == "aten":
            found.setdefault(target, set()).add(operator.rpartition(".")[0])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_equal(name: str) -> None:
    qmodel, program = exported(name)
    with torch.no_grad():
        expected, found = map(pytree.tree_leaves, (qmodel.reference(X), program.module()(X)))
    for theirs, mine in zip(expected, found, strict=True):
        if isinstance(theirs, Tensor):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.slow
def test_operations_are_written_with_the_operators_that_the_page_shows() -> None:
    seen: dict[OpDef, set[str]] = {}
    for name in NAMES:
        for op, operators in used(name).items():
            seen.setdefault(op, set()).update(operators)
    wrong = {
        op.name: sorted(operators - _AROUND)
        for op, operators in seen.items()
        if not operators <= {*operators_of(op), *_AROUND} or not operators & set(operators_of(op))
    }
    assert wrong == {}
    assert len(seen) > 110
    assert vocab.CONV2D in seen
