"""Writing a quantized model to an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from qfx.errors import ConfigError
from qfx.export.onnx import model
from qfx.export.onnx.forms import Form
from qfx.export.onnx.graph import Written, write
from qfx.export.onnx.packages import require
from qfx.export.onnx.problems import raise_all
from qfx.export.onnx.sizes import DynamicShapes, Shapes
from qfx.runtime.quantized import QuantizedModel


@dataclass(frozen=True)
class OnnxFile:
    """What was written; it prints as a line or two.

    Attributes:
        path: of the file.
        opset: version of the standard operators.
        form: "exact" or "integer".
        inputs, outputs: the shape of each, by name; free sizes by their names, or "?".
        operators: how often each operator was written.
    """

    path: str
    opset: int
    form: str
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]
    operators: Mapping[str, int]

    def __str__(self) -> str:
        sides = (
            ", ".join(f"{name}[{', '.join(map(str, shape))}]" for name, shape in side.items())
            for side in (self.inputs, self.outputs)
        )
        return f"{self.path}: opset {self.opset}, form {self.form}: {' -> '.join(sides)}"


def export_onnx(
    qmodel: QuantizedModel,
    path: str | os.PathLike[str],
    *,
    opset: int = 21,
    dynamic_shapes: DynamicShapes | None = None,
) -> OnnxFile:
    """Write a quantized model as ONNX, quantize and dequantize explicit.

    Weights are stored as the model has them, as 8-bit or 4-bit integers; activations are quantized
    by QuantizeLinear and DequantizeLinear with the model's scales, or, where they are measured at
    run time, multiplied by MatMulInteger and ConvInteger. Nodes carry the module path and source
    line that they come from (``metadata_props``: ``qfx.module``, ``qfx.source``).

    Args:
        qmodel: what ``qfx.quantize`` or ``qfx.convert`` returned.
        path: of the file. Weights beyond 2 GB go to a file beside it, named ``path.data``.
        opset: version of the standard operators, from 18 on; 4-bit weights, blocks and codes of 16
            bits need 21.
        dynamic_shapes: the sizes that may differ from run to run: for inputs by name, a mapping
            from dims to names, or a sequence of names and None. Sizes of one name are equal. None
            takes every size with which the model runs; an empty mapping takes none.

    Returns:
        What was written.

    Raises:
        ExportError: ONNX can't say what the model computes; every site is named.
        ConfigError: an argument is wrong, or the model does not run with other sizes.
        BackendError: the packages for it are not installed (``pip install qfx[onnx]``).
    """
    _check(qmodel, opset)
    require("onnx_ir")
    written = _written(qmodel.reference, opset, dynamic_shapes, Form.EXACT)
    made = model.model_of(written, {"qfx.backend": qmodel.backend})
    model.save(made, path)
    model.check(path)
    return model.summary(made, OnnxFile, os.fspath(path), Form.EXACT.value)


def _check(qmodel: object, opset: int) -> None:
    if not isinstance(qmodel, QuantizedModel):
        raise ConfigError(
            f"export_onnx takes a quantized model, not {type(qmodel).__name__}. What to do: give it"
            " what qfx.quantize or qfx.convert returned"
        )
    if opset not in model.OPSETS:
        raise ConfigError(
            f"opset {opset!r} can't be written; it can be {model.OPSETS[0]} to {model.OPSETS[-1]}"
        )


def _written(
    reference: fx.GraphModule, opset: int, dynamic_shapes: DynamicShapes | None, form: Form
) -> Written:
    """The graph; with fewer free sizes where ONNX can't say it otherwise, unless they are asked."""
    shapes = Shapes(reference)
    if dynamic_shapes is not None:
        shapes.demand(dynamic_shapes)
    else:
        shapes.find()
    written = write(reference, shapes, opset, form)
    for batch_only in (True, False):
        if dynamic_shapes is not None or not any(p.by_size for p in written.problems):
            break
        if batch_only:
            shapes.find(batch_only=True)
        else:
            shapes.fix()
        written = write(reference, shapes, opset, form)
    raise_all(written.problems, "ONNX")
    return written
