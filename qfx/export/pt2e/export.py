"""Writing a quantized model as a program of torch.export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import traceback

from qfx.errors import ConfigError, ExportError
from qfx.export.arguments import check_quantized
from qfx.export.problems import raise_all
from qfx.export.pt2e.forms import call_hardtanh, dequantize_for_each
from qfx.export.pt2e.graph import ProgramModule, Trace
from qfx.graph import meta
from qfx.graph.locks import CAPTURE_LOCK
from qfx.graph.steps import called_with
from qfx.runtime.quantized import QuantizedModel


def export_pt2e(
    qmodel: QuantizedModel,
    example_inputs: object,
    dynamic_shapes: dict[str, Any] | tuple[Any, ...] | list[Any] | None = None,
) -> torch.export.ExportedProgram:
    """Write a quantized model as a program of ``torch.export``.

    Tensors are quantized and dequantized by ``torch.ops.quantized_decomposed``, in which backends
    (ExecuTorch's, Inductor's) know quantization; between them stand the operators of PyTorch.
    Weights stay integers in the program's state. ``torch.export.save`` and ``.load`` keep it all.

    PyTorch's ``quantize_per_tensor`` rounds before it adds the zero point, the model afterwards:
    where a value lies halfway between two codes, with an odd zero point, they differ by one step.
    Scales that are measured at run time may differ in their last bit.

    Args:
        qmodel: what ``qfx.quantize`` or ``qfx.convert`` returned.
        example_inputs: a tensor, a tuple of positional arguments, or a mapping of arguments by
            name.
        dynamic_shapes: as ``torch.export.export`` takes it; None fixes all sizes.

    Raises:
        ExportError: quantized_decomposed can't say what the model computes (every site is named),
            or torch.export can't trace it.
        ConfigError: an argument is wrong.
    """
    check_quantized(qmodel, "export_pt2e")
    args, kwargs = _arguments(qmodel.reference.graph, example_inputs)
    trace = Trace()
    program = ProgramModule(qmodel.reference, trace)
    with CAPTURE_LOCK, torch.no_grad(), traceback.preserve_node_meta():
        try:
            exported = torch.export.export(
                program, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False
            )
        except Exception as error:
            raise_all(trace.problems, "quantized_decomposed")
            raise ExportError(_failure(trace, error)) from error
    raise_all(trace.problems, "quantized_decomposed")
    _drop_own_lines(exported)
    dequantize_for_each(exported.graph)
    call_hardtanh(exported.graph)
    exported.graph_module.recompile()
    return exported


def _drop_own_lines(exported: torch.export.ExportedProgram) -> None:
    """Leave no stack trace, which would be one of this package, where the user's is not known."""
    for node in exported.graph.nodes:
        if "qfx.source" not in node.meta.get("custom", {}):
            node.meta.pop("stack_trace", None)


def _arguments(graph: fx.Graph, example_inputs: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return called_with(graph, example_inputs)
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if not isinstance(example_inputs, (tuple, list)):
        raise ConfigError(
            f"example_inputs is {type(example_inputs).__name__}; give a tensor, a tuple of "
            "positional arguments, or a mapping of arguments by name"
        )
    return tuple(example_inputs), {}


def _failure(trace: Trace, error: Exception) -> str:
    at = "" if trace.at is None else f" at %{meta.where(trace.at)}"
    return (
        f"torch.export can't trace the model{at}: {type(error).__name__}: {error}\n"
        "What to do: give example_inputs as the model takes them, leave sizes out of "
        "dynamic_shapes that can't differ, tell torch.export of classes that the model takes or "
        "returns (torch.export.register_dataclass), or export the part of the model around it."
    )
