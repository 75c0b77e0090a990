"""Sizes, and what Python computes with them: constants where they are fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from qfx import vocab
from qfx.export.onnx.packed import StepSizes
from qfx.export.onnx.values import Number, Operand
from qfx.export.problems import CannotWrite

if TYPE_CHECKING:
    from qfx.export.onnx.writer import Writer


def size(w: Writer, input: Operand | StepSizes, *, dim: int | None) -> Any:
    if isinstance(input, StepSizes):
        return input.lengths.longest(w)
    if dim is not None:
        return w.size(input, dim)
    return tuple(w.size(input, d) for d in range(w.info(input).rank))


def dim(w: Writer, input: Operand) -> int:
    return w.info(input).rank


def dtype(w: Writer, input: Operand) -> torch.dtype:
    return w.info(input).dtype


def device(w: Writer, input: Operand) -> torch.device:
    return torch.device("cpu")


def guard(w: Writer, value: object, *, expected: object, what: str, asserted: bool) -> None:
    """Holds for the sizes that were tried; ONNX has nothing that refuses inputs."""


_BINARY = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "mod": "Mod",
    "pow": "Pow",
    "eq": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "max": "Max",
    "min": "Min",
}
_COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")


def scalar(name: str, function: Callable[..., object]) -> Callable[..., Any]:
    """The emitter of a function of numbers."""

    def write(w: Writer, *values: object, **options: object) -> Any:
        if not any(isinstance(v, Number) for v in (*values, *options.values())):
            return function(*values, **options)
        return _computed(w, name, list(values))

    return write


def _computed(w: Writer, name: str, values: list[Any]) -> Number:
    if name in ("int", "bool", "float", "pos", "neg", "abs", "not") and len(values) == 1:
        return _unary(w, name, values[0])
    if len(values) != 2 or not all(isinstance(v, (Number, int, float)) for v in values):
        raise CannotWrite(f"{name} of sizes that are not fixed", "Fix them.", by_size=True)
    kind = float if name == "truediv" or any(_kind(v) is float for v in values) else int
    left, right = (_as(w, v, kind) for v in values)
    if name == "truediv":
        return Number(w.op("Div", left, right), float)
    if name == "floordiv":
        return _floor(w, left, right, kind)
    if name == "ne":
        return Number(w.op("Not", w.op("Equal", left, right)), bool)
    if name not in _BINARY or (name == "mod" and kind is float):
        raise CannotWrite(f"{name} of sizes that are not fixed", "Fix them.", by_size=True)
    return Number(w.op(_BINARY[name], left, right), bool if name in _COMPARE else kind)


def _floor(w: Writer, left: Any, right: Any, kind: type) -> Number:
    """Div of integers leaves the fraction out, Python rounds down."""
    if kind is float:
        return Number(w.op("Floor", w.op("Div", left, right)), float)
    whole = w.op("Sub", left, w.op("Mod", left, right))
    return Number(w.op("Div", whole, right), int)


def _unary(w: Writer, name: str, value: Number) -> Number:
    if name in ("int", "bool", "float"):
        kind = {"int": int, "bool": bool, "float": float}[name]
        return Number(_as(w, value, kind), kind)
    operators = {"neg": "Neg", "abs": "Abs", "not": "Not"}
    if name == "pos":
        return value
    if name == "not":
        return Number(w.op("Not", _as(w, value, bool)), bool)
    return Number(w.op(operators[name], _as(w, value, value.kind)), value.kind)


def _kind(value: object) -> type:
    return value.kind if isinstance(value, Number) else type(value)


def _as(w: Writer, value: object, kind: type) -> Any:
    """A tensor of one element of the dtype that stands for ``kind``."""
    dtype = {int: torch.int64, float: torch.float32, bool: torch.bool}[kind]
    if isinstance(value, Number):
        return value.value if value.kind is kind else w.op("Cast", value, to=int(w.dtype(dtype)))
    return w.vector([kind(value)])


SCALARS = {op: scalar(op.name.removeprefix("scalar_"), f) for f, op in vocab.SCALARS.items()}
