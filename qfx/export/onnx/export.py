"""Writing a quantized model to an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from torch import fx

from qfx import vocab
from qfx.errors import ConfigError
from qfx.export.arguments import check_quantized
from qfx.export.onnx import model
from qfx.export.onnx.arguments import by_name, of_model
from qfx.export.onnx.forms import OnnxForm
from qfx.export.onnx.free_sizes import DynamicShapes
from qfx.export.onnx.graph import WrittenGraph, write
from qfx.export.onnx.packages import EXTRA, installed, require
from qfx.export.onnx.seen import SeenRanges, see
from qfx.export.onnx.sizes import DecidedByData, Shapes, input_value
from qfx.export.onnx.trials import FormTrial, best, try_each
from qfx.export.problems import CannotWrite, opaque_modules, problem, raise_all
from qfx.runtime.quantized import QuantizedModel
from qfx.vocab import is_op

if TYPE_CHECKING:
    import onnx_ir as ir

FORMS = ("auto", *(form.value for form in OnnxForm))
TRIED = (OnnxForm.EXACT, OnnxForm.INTEGER, OnnxForm.FULL)
"""What "auto" tries: ONNX Runtime has no use for the others."""


@dataclass(frozen=True)
class OnnxFile:
    """What was written; it prints as a line or two.

    Attributes:
        path: of the file.
        opset: version of the standard operators.
        form: "exact", "integer" or "full_integer".
        inputs, outputs: the shape of each, by name; free sizes by their names, or "?".
        operators: how often each operator was written.
        trials: of the forms, where it was chosen by measuring.
        untried: why it was not, where "auto" took the exact form without; else "".
        asked: the tensors between the layers whose free sizes only they themselves can tell.
        constants: the numbers that the model is called with, as they are in the file.
    """

    path: str
    opset: int
    form: str
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]
    operators: Mapping[str, int]
    trials: tuple[FormTrial, ...] = ()
    untried: str = ""
    asked: tuple[str, ...] = ()
    constants: Mapping[str, float] = field(default_factory=dict)

    def __fspath__(self) -> str:
        """The path: it goes wherever one does."""
        return self.path

    def __str__(self) -> str:
        sides = (
            ", ".join(f"{name}[{', '.join(map(str, shape))}]" for name, shape in side.items())
            for side in (self.inputs, self.outputs)
        )
        head = f"{self.path}: opset {self.opset}, form {self.form}: {' -> '.join(sides)}"
        why = (f"  exact: {self.untried}",) if self.untried else ()
        said = ", ".join(f"{name}={number}" for name, number in self.constants.items())
        fixed = (f"  constant in the file: {said}",) if said else ()
        return "\n".join([head, *map(str, self.trials), *why, *fixed, *self._warning()])

    def _warning(self) -> tuple[str, ...]:
        if not self.asked:
            return ()
        return (
            f"  asked for free sizes: {', '.join(self.asked)}; OpenVINO 2026.4 may lose the bias "
            "of a convolution there: compare, or export for it with dynamic_shapes={}",
        )


def export_onnx(
    qmodel: QuantizedModel,
    path: str | os.PathLike[str],
    *,
    opset: int = 21,
    dynamic_shapes: DynamicShapes | None = None,
    form: str = "auto",
    example_inputs: object = None,
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

        form: "exact" rounds where the model rounds. "integer" also rounds what convolutions yield
            before residuals and activations, so that engines run them in integers. "full_integer"
            also rounds sigmoids, products, sums, concatenations and averages between codes.
            "scores" rounds, beside what the model does, queries and keys of attention,
            "attention" its weights and values, too, "bfloat16" all of them to bfloat16: for
            OpenVINO (docs/onnx.md). "auto" has ONNX Runtime run the others, and takes "integer" if
            it runs more of that in integers and agrees with the model as well, "full_integer" if
            that is faster still. Where all are the same, or without ONNX Runtime, it is "exact";
            the result says so.
        example_inputs: as ``check_onnx`` takes them. What operations yield for these narrows the
            ranges of the integer forms, and "auto" compares with them; None: with random numbers.
            Numbers among them are constants in the file; without them, their defaults are.

    Returns:
        What was written.

    Raises:
        ExportError: ONNX can't say what the model computes; every site is named.
        ConfigError: an argument is wrong, or the model does not run with other sizes.
        BackendError: the packages for it are not installed (``pip install qfx[onnx]``).
    """
    _check(qmodel, opset, form)
    require("onnx_ir")
    raise_all(opaque_modules(qmodel.reference), "ONNX")
    arguments = None
    if example_inputs is not None:
        takes = of_model(qmodel.reference)
        arguments = by_name(qmodel.reference, example_inputs, called="example_inputs", takes=takes)
    shapes = _shapes(qmodel.reference, arguments)
    exact = _written(qmodel.reference, shapes, opset, dynamic_shapes)
    forms = {OnnxForm.EXACT: model.model_of(exact, qmodel.backend, OnnxForm.EXACT.value)}
    wanted = TRIED if form == "auto" else (OnnxForm(form),)
    rounding = [each for each in wanted if each is not OnnxForm.EXACT]
    seen = SeenRanges()
    if rounding and arguments is not None:
        factors = any(each.multiplies_scores for each in rounding)
        seen = see(qmodel.reference, arguments, factors=factors)
    for each in rounding:
        written = write(qmodel.reference, shapes, opset, each, seen)
        forms[each] = model.model_of(written, qmodel.backend, each.value)
    if form == "auto":
        forms = _apart(forms)
    untried = _untried(forms, arguments) if form == "auto" else ""
    tried = form == "auto" and not untried
    trials = try_each(qmodel, forms, arguments) if tried else ()
    chosen = OnnxForm(form) if form != "auto" else best(trials)
    model.save(forms[chosen], path)
    model.check(path)
    sides = model.sides(forms[chosen])
    asked = model.asked(forms[chosen])
    constants = _constants(shapes)
    return OnnxFile(os.fspath(path), opset, chosen.value, *sides, trials, untried, asked, constants)


def _constants(shapes: Shapes) -> dict[str, float]:
    """The inputs that are numbers, and are read as such."""
    return {
        str(node.target): value
        for node, value in shapes.inputs.items()
        if isinstance(value, (int, float)) and not all(is_op(u, vocab.GUARD) for u in node.users)
    }


def _apart(forms: Mapping[OnnxForm, ir.Model]) -> dict[OnnxForm, ir.Model]:
    """The forms that are written with other operators than those before them."""
    apart: dict[tuple[str, ...], OnnxForm] = {}
    for form, written in forms.items():
        apart.setdefault(tuple(sorted(node.op_type for node in written.graph)), form)
    return {form: forms[form] for form in apart.values()}


def _untried(forms: Mapping[OnnxForm, ir.Model], arguments: Mapping[str, object] | None) -> str:
    """Why there is nothing to measure, or nothing to measure with; else ""."""
    if len(forms) == 1:
        hint = "" if arguments else " without example_inputs"
        return f"the integer forms are the same{hint}"
    if not installed("onnxruntime"):
        return f"the integer forms were not tried, which takes ONNX Runtime ({EXTRA})"
    return ""


def _check(qmodel: object, opset: int, form: str) -> None:
    check_quantized(qmodel, "export_onnx")
    if type(opset) is not int or opset not in model.OPSETS:
        raise ConfigError(
            f"opset {opset!r} can't be written; it can be a whole number from {model.OPSETS[0]} to "
            f"{model.OPSETS[-1]}"
        )
    if form not in FORMS:
        raise ConfigError(f"form is {form!r}; it can be {', '.join(map(repr, FORMS))}")


def _shapes(graph_module: fx.GraphModule, given: Mapping[str, object] | None) -> Shapes:
    """The shapes of every node; ExportError where data decides them."""
    for node in graph_module.graph.find_nodes(op="placeholder"):
        if input_value(node) is None and given is None and not node.args and node.users:
            raise ConfigError(
                f"{node.target} is a number that callers give, which is a constant in a file: give "
                "example_inputs that have it"
            )
    try:
        return Shapes(graph_module, given)
    except DecidedByData as found:
        told = CannotWrite(found.what, "Compute them outside of the model.")
        raise_all([problem(found.node, told)], "ONNX")
        raise


def _written(
    reference: fx.GraphModule,
    shapes: Shapes,
    opset: int,
    dynamic_shapes: DynamicShapes | None,
) -> WrittenGraph:
    """The graph; with fewer free sizes where ONNX can't say it otherwise, unless they are asked."""
    if dynamic_shapes is not None:
        shapes.demand(dynamic_shapes)
        written = write(reference, shapes, opset, OnnxForm.EXACT)
        raise_all(written.problems, "ONNX")
        return written
    for free in (shapes.find, partial(shapes.find, batch_only=True), shapes.fix):
        free()
        written = write(reference, shapes, opset, OnnxForm.EXACT)
        if not any(found.by_size for found in written.problems):
            break
    raise_all(written.problems, "ONNX")
    return written
