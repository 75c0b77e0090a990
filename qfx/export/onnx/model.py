"""A written graph as a model: metadata, checks, the file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qfx.export.onnx.graph import WrittenGraph
from qfx.export.onnx.packages import require
from qfx.version import __version__

if TYPE_CHECKING:
    import onnx_ir as ir

PRODUCER = "qfx"
_IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
OPSETS = tuple(_IR_VERSIONS)
_LARGEST_FILE = 2**31 - 2**20


def model_of(written: WrittenGraph, backend: str, form: str) -> ir.Model:
    """The graph as a model, without what nothing reads."""
    onnx_ir = require("onnx_ir")
    graph = onnx_ir.Graph(
        written.inputs,
        written.outputs,
        nodes=written.writer.nodes,
        initializers=written.writer.initializers,
        opset_imports={"": written.writer.opset, **dict.fromkeys(_domains(written), 1)},
        name="qfx",
    )
    model = onnx_ir.Model(
        graph,
        ir_version=_IR_VERSIONS[written.writer.opset],
        producer_name=PRODUCER,
        producer_version=__version__,
        metadata_props={"qfx.backend": backend, "qfx.form": form},
    )
    require("onnx_ir.passes.common").RemoveUnusedNodesPass()(model)
    made: ir.Model = model
    return made


def _domains(written: WrittenGraph) -> Iterable[str]:
    """The domains of operators that are not the standard's."""
    return (node.domain for node in written.writer.nodes if node.domain)


def save(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write the file, and a second one beside it for what one can't hold."""
    onnx_ir = require("onnx_ir")
    constants = (value.const_value for value in model.graph.initializers.values())
    size = sum(constant.nbytes for constant in constants if constant is not None)
    beside = f"{Path(path).name}.data" if size > _LARGEST_FILE else None
    onnx_ir.save(model, path, external_data=beside)


def check(path: str | os.PathLike[str]) -> None:
    """Let ``onnx.checker`` look at a file, with shape inference."""
    checker: Any = require("onnx.checker")
    checker.check_model(os.fspath(path), full_check=True)


def sides(
    model: ir.Model,
) -> tuple[dict[str, tuple[int | str, ...]], dict[str, tuple[int | str, ...]], dict[str, int]]:
    """The shapes of inputs and outputs, and how often each operator stands there."""
    graph = model.graph
    inputs, outputs = (
        {str(value.name): _sizes(value) for value in side} for side in (graph.inputs, graph.outputs)
    )
    return inputs, outputs, dict(Counter(node.op_type for node in graph).most_common())


def asked(model: ir.Model) -> tuple[str, ...]:
    """The tensors between the layers that are asked for their shape."""
    inputs = set(model.graph.inputs)
    nodes = (node for node in model.graph if node.op_type == "Shape")
    values = (node.inputs[0] for node in nodes)
    names = (str(value.name) for value in values if value is not None and value not in inputs)
    return tuple(dict.fromkeys(names))


def _sizes(value: ir.Value) -> tuple[int | str, ...]:
    dims = () if value.shape is None else value.shape
    return tuple(dim if isinstance(dim, int) else dim.value or "?" for dim in dims)
