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


def erfc(w: Writer, input: Operand) -> ir.Value:
    return w.op("Sub", _one(w, input), w.op("Erf", input, like=input))


def trunc(w: Writer, input: Operand) -> ir.Value:
    size = w.op("Floor", w.op("Abs", input, like=input), like=input)
    return w.op("Mul", w.op("Sign", input, like=input), size, like=input)


def frac(w: Writer, input: Operand) -> ir.Value:
    return w.op("Sub", input, trunc(w, input))


def logit(w: Writer, input: Operand, *, eps: float | None) -> ir.Value:
    if eps is not None:
        dtype = w.info(input).dtype
        input = w.op("Clip", input, w.scalar(eps, dtype), w.scalar(1 - eps, dtype), like=input)
    return w.op("Log", w.op("Div", input, w.op("Sub", _one(w, input), input)))


def nan_to_num(
    w: Writer, input: Operand, *, nan: float | None, posinf: float | None, neginf: float | None
) -> ir.Value:
    dtype = w.info(input).dtype
    ends = torch.finfo(dtype)
    made = w.op("Where", w.op("IsNaN", input), w.scalar(nan or 0.0, dtype), input)
    for positive, end, number in ((1, ends.max, posinf), (0, ends.min, neginf)):
        found = w.op("IsInf", input, detect_positive=positive, detect_negative=1 - positive)
        made = w.op("Where", found, w.scalar(end if number is None else number, dtype), made)
    return made


def hypot(w: Writer, input: Operand, other: Operand) -> ir.Value:
    squares = [w.op("Mul", each, each) for each in (input, other)]
    return w.op("Sqrt", w.op("Add", *squares))


def logaddexp(w: Writer, input: Operand, other: Operand) -> ir.Value:
    apart = w.op("Exp", w.op("Neg", w.op("Abs", w.op("Sub", input, other))))
    return w.op("Add", w.op("Max", input, other), w.op("Log", w.op("Add", apart, _one(w, input))))


def xlogy(w: Writer, input: Operand, other: Operand) -> ir.Value:
    dtype = common_dtype(w, input, other)
    input, zero = w.cast(input, dtype), w.scalar(0.0, dtype)
    product = w.op("Mul", input, w.op("Log", w.cast(other, dtype)))
    return w.op("Where", w.op("Equal", input, zero), zero, product)


def fmod(w: Writer, input: Operand, other: Operand) -> ir.Value:
    dtype = common_dtype(w, input, other)
    return w.op("Mod", w.cast(input, dtype), w.cast(other, dtype), fmod=1)


def remainder(w: Writer, input: Operand, other: Operand) -> ir.Value:
    """With the sign of the divisor, as in Python; Mod of floats has that of the dividend."""
    dtype = common_dtype(w, input, other)
    input, other = w.cast(input, dtype), w.cast(other, dtype)
    if not dtype.is_floating_point:
        return w.op("Mod", input, other)
    whole = w.op("Mul", w.op("Floor", w.op("Div", input, other)), other)
    return w.op("Sub", input, whole)


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
