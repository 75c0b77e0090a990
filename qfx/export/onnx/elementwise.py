"""Functions of each number, and what takes one of two by number."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from qfx.export.onnx.activations import common_dtype
from qfx.export.onnx.values import Operand
from qfx.export.problems import CannotWrite

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer


def of_each(*kinds: str) -> Callable[..., ir.Value]:
    """What writes these operators, one after the other."""

    def write(w: Writer, input: Operand) -> ir.Value:
        dtype = w.info(input).dtype
        whole = kinds[0] in ("Abs", "Neg") or dtype.is_floating_point
        made = input if whole else w.cast(input, torch.float32)
        for kind in kinds:
            made = w.op(kind, made, like=made)
        return w.value(made)

    return write


def expm1(w: Writer, input: Operand) -> ir.Value:
    return w.op("Sub", w.op("Exp", input), _one(w, input))


def log1p(w: Writer, input: Operand) -> ir.Value:
    return w.op("Log", w.op("Add", input, _one(w, input)))


def scaled(kind: str, *, before: float = 1.0, after: float = 1.0) -> Callable[..., ir.Value]:
    """What writes an operator of ``before`` times its input, and ``after`` times that."""

    def write(w: Writer, input: Operand) -> ir.Value:
        dtype = w.info(input).dtype
        made = input if before == 1.0 else w.op("Mul", input, w.scalar(before, dtype), like=input)
        made = w.op(kind, made, like=input)
        return w.op("Mul", made, w.scalar(after, dtype)) if after != 1.0 else made

    return write


def lerp(w: Writer, input: Operand, end: Operand, weight: Operand) -> ir.Value:
    dtype = w.info(input).dtype
    return w.op("Add", input, w.op("Mul", w.cast(weight, dtype), w.op("Sub", end, input)))


def number_of_two(kind: str) -> Callable[..., ir.Value]:
    """What writes the larger or the smaller of two, and of a number and NaN the number."""

    def write(w: Writer, input: Operand, other: Operand) -> ir.Value:
        dtype = common_dtype(w, input, other)
        one, two = w.cast(input, dtype), w.cast(other, dtype)
        first = w.op("Where", w.op("IsNaN", two), one, w.op(kind, one, two))
        return w.op("Where", w.op("IsNaN", one), two, first)

    return write


def _one(w: Writer, input: Operand) -> ir.Value:
    return w.scalar(1.0, w.info(input).dtype)


def round(w: Writer, input: Operand, *, decimals: int) -> ir.Value:
    if not decimals:
        return of_each("Round")(w, input)
    factor = w.scalar(10.0**decimals, w.info(input).dtype)
    return w.op("Div", w.op("Round", w.op("Mul", input, factor)), factor)


def power(w: Writer, input: Operand, exponent: Operand) -> ir.Value:
    dtype = common_dtype(w, input, exponent)
    return w.op("Pow", w.cast(input, dtype), w.cast(exponent, dtype))


def extreme(kind: str) -> Callable[..., ir.Value]:
    """What writes the larger or the smaller of two."""

    def write(w: Writer, input: Operand, other: Operand) -> ir.Value:
        dtype = common_dtype(w, input, other)
        return w.op(kind, w.cast(input, dtype), w.cast(other, dtype))

    return write


def where(w: Writer, condition: Operand, input: Operand, other: Operand) -> ir.Value:
    dtype = common_dtype(w, input, other)
    return w.op("Where", condition, w.cast(input, dtype), w.cast(other, dtype))


def masked_fill(w: Writer, input: Operand, mask: Operand, value: Operand) -> ir.Value:
    return w.op("Where", mask, w.cast(value, w.info(input).dtype), input)


def triangle(upper: int) -> Callable[..., ir.Value]:
    """What writes the part of matrices on one side of a diagonal."""

    def write(w: Writer, input: Operand, *, diagonal: int) -> ir.Value:
        return w.op("Trilu", input, w.scalar(diagonal, torch.int64), upper=upper)

    return write


def cumsum(w: Writer, input: Operand, *, dim: int) -> ir.Value:
    dtype = w.info(input).dtype
    wide = input if dtype.is_floating_point else w.cast(input, torch.int64)
    return w.op("CumSum", wide, w.scalar(dim, torch.int64))


def grid_sample(
    w: Writer,
    input: Operand,
    grid: Operand,
    *,
    mode: str,
    padding_mode: str,
    align_corners: bool | None,
) -> ir.Value:
    names = {"bilinear": "linear", "bicubic": "cubic"} if w.opset >= 20 else {}
    if w.info(input).rank != 4:
        raise CannotWrite("samples of volumes", "Sample images.")
    return w.op(
        "GridSample",
        input,
        grid,
        mode=names.get(mode, mode),
        padding_mode=padding_mode,
        align_corners=int(bool(align_corners)),
    )
