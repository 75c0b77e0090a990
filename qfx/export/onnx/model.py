"""A written graph as a model: metadata, checks, the file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qfx.export.onnx.graph import Written
from qfx.export.onnx.packages import require

if TYPE_CHECKING:
    import onnx_ir as ir

Summary = TypeVar("Summary")
PRODUCER = "qfx"
_IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
OPSETS = tuple(_IR_VERSIONS)
_LARGEST_FILE = 2**31 - 2**20


def model_of(written: Written, properties: dict[str, str]) -> ir.Model:
    """The model, with shapes inferred."""
    onnx_ir = require("onnx_ir")
    from qfx import __version__

    graph = onnx_ir.Graph(
        written.inputs,
        written.outputs,
        nodes=written.writer.nodes,
        initializers=written.writer.initializers,
        opset_imports={"": written.writer.opset},
        name="qfx",
    )
    model = onnx_ir.Model(
        graph,
        ir_version=_IR_VERSIONS[written.writer.opset],
        producer_name=PRODUCER,
        producer_version=__version__,
        metadata_props=properties,
    )
    require("onnx_ir.passes.common").RemoveUnusedNodesPass()(model)
    made: ir.Model = model
    return made


def save(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write the file, and a second one beside it for what one can't hold."""
    onnx_ir = require("onnx_ir")
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    beside = f"{Path(path).name}.data" if size > _LARGEST_FILE else None
    onnx_ir.save(model, path, external_data=beside)


def check(path: str | os.PathLike[str]) -> None:
    """Let ``onnx.checker`` look at a file, with shape inference."""
    checker: Any = require("onnx.checker")
    checker.check_model(os.fspath(path), full_check=True)


def summary(model: ir.Model, kind: Callable[..., Summary], path: str, form: str) -> Summary:
    """What was written, as ``kind`` has it."""
    graph = model.graph
    sides = ({str(v.name): _sizes(v) for v in side} for side in (graph.inputs, graph.outputs))
    operators = Counter(node.op_type for node in graph)
    return kind(path, graph.opset_imports[""], form, *sides, dict(operators.most_common()))


def _sizes(value: ir.Value) -> tuple[int | str, ...]:
    dims = () if value.shape is None else value.shape
    return tuple(dim if isinstance(dim, int) else dim.value or "?" for dim in dims)
