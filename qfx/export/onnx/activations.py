"""Arithmetic and activations; those that kernels compute on their result, too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from qfx.export.onnx.rounding import fixed, stays_in_codes
from qfx.export.onnx.values import Number, Operand
from qfx.export.problems import CannotWrite

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer


# -- arithmetic ------------------------------------------------------------------------------------
def add(w: Writer, input: Operand, other: Operand, *, alpha: float) -> ir.Value:
    return _arithmetic(w, "Add", input, other, alpha)


def sub(w: Writer, input: Operand, other: Operand, *, alpha: float) -> ir.Value:
    return _arithmetic(w, "Sub", input, other, alpha)


def mul(w: Writer, input: Operand, other: Operand) -> ir.Value:
    return _arithmetic(w, "Mul", input, other)


def div(w: Writer, input: Operand, other: Operand, *, rounding_mode: str | None) -> ir.Value:
    dtype = common_dtype(w, input, other)
    if rounding_mode is None and not dtype.is_floating_point:
        dtype = torch.float32
    if rounding_mode is not None and not dtype.is_floating_point:
        return _integer_quotient(w, w.cast(input, dtype), w.cast(other, dtype), rounding_mode)
    quotient = w.op("Div", w.cast(input, dtype), w.cast(other, dtype))
    if rounding_mode == "floor":
        return w.op("Floor", quotient)
    if rounding_mode == "trunc":
        return w.op("Mul", w.op("Sign", quotient), w.op("Floor", w.op("Abs", quotient)))
    return quotient


def _integer_quotient(w: Writer, input: Operand, other: Operand, rounding_mode: str) -> ir.Value:
    """Div of integers leaves the fraction out; Mod has the sign of the divisor, as in Python."""
    if rounding_mode == "trunc":
        return w.op("Div", input, other)
    return w.op("Div", w.op("Sub", input, w.op("Mod", input, other)), other)


def _arithmetic(w: Writer, kind: str, input: Operand, other: Operand, alpha: float = 1) -> ir.Value:
    dtype = common_dtype(w, input, other)
    if dtype == torch.bool:
        raise CannotWrite("arithmetic of booleans", "Write it with logical operators.")
    left, right = w.cast(input, dtype), w.cast(other, dtype)
    if alpha != 1:
        right = w.op("Mul", right, w.scalar(alpha, dtype))
    return w.op(kind, left, right)


def common_dtype(w: Writer, input: Operand, other: Operand) -> torch.dtype:
    """The dtype in which torch computes with these."""
    return torch.result_type(_stand_in(w, input), _stand_in(w, other))


def _stand_in(w: Writer, operand: Operand) -> Any:
    if isinstance(operand, (bool, int, float)):
        return operand
    if isinstance(operand, Number):
        return {bool: True, int: 1, float: 1.0}[operand.kind]
    info = w.info(operand)
    return torch.empty((1,) * len(info.shape), dtype=info.dtype)


def cast(w: Writer, input: Operand, *, dtype: torch.dtype) -> Operand:
    return w.cast(input, dtype)


# -- activations -----------------------------------------------------------------------------------
def clamp(
    w: Writer, input: Operand, *, min: float | None = None, max: float | None = None
) -> ir.Value:
    dtype = w.info(input).dtype
    ends = [None if end is None else w.cast(end, dtype) for end in (min, max)]
    return w.op("Clip", input, *ends)


def relu(w: Writer, input: Operand) -> ir.Value:
    return w.op("Relu", input)


def leaky_relu(w: Writer, input: Operand, *, negative_slope: float = 0.01) -> ir.Value:
    return w.op("LeakyRelu", input, alpha=float(negative_slope))


def elu(w: Writer, input: Operand, *, alpha: float) -> ir.Value:
    return w.op("Elu", input, alpha=float(alpha))


def hardswish(w: Writer, input: Operand) -> ir.Value:
    if not stays_in_codes(w, input):
        return w.op("HardSwish", input)
    return w.op("Mul", input, fixed(w, input, _hardsigmoid(w, input), (0.0, 1.0)))


def silu(w: Writer, input: Operand) -> ir.Value:
    return w.op("Mul", input, fixed(w, input, w.op("Sigmoid", input), (0.0, 1.0)))


def gelu(w: Writer, input: Operand, *, approximate: str = "none") -> ir.Value:
    if w.opset >= 20:
        return w.op("Gelu", input, approximate=approximate)
    half, one = w.scalar(0.5, torch.float32), w.scalar(1.0, torch.float32)
    if approximate == "tanh":
        cube = w.op("Mul", input, w.op("Mul", input, input))
        inner = w.op("Add", input, w.op("Mul", cube, w.scalar(0.044715, torch.float32)))
        bent = w.op("Tanh", w.op("Mul", inner, w.scalar(math.sqrt(2 / math.pi), torch.float32)))
    else:
        bent = w.op("Erf", w.op("Mul", input, w.scalar(math.sqrt(0.5), torch.float32)))
    return w.op("Mul", w.op("Mul", input, w.op("Add", bent, one)), half)


def prelu(w: Writer, input: Operand, weight: Operand) -> ir.Value:
    """A slope for each channel, or one for all."""
    info = w.info(weight)
    rank = w.info(input).rank
    if info.rank == 0 or info.example == (1,) or rank < 2:
        return w.op("PRelu", input, weight)
    shape = (-1, *(1,) * (rank - 2))
    if isinstance(weight, torch.Tensor):
        return w.op("PRelu", input, weight.reshape(shape))
    return w.op("PRelu", input, w.op("Reshape", weight, w.vector(list(shape))))


def sigmoid(w: Writer, input: Operand) -> ir.Value:
    return w.op("Sigmoid", input)


def hardsigmoid(w: Writer, input: Operand) -> ir.Value:
    return _hardsigmoid(w, input)


def _hardsigmoid(w: Writer, input: Operand) -> ir.Value:
    return w.op("HardSigmoid", input, alpha=1 / 6, beta=0.5)


def tanh(w: Writer, input: Operand) -> ir.Value:
    return w.op("Tanh", input)


def mish(w: Writer, input: Operand) -> ir.Value:
    return w.op("Mish", input)


def selu(w: Writer, input: Operand) -> ir.Value:
    return w.op("Selu", input)


def celu(w: Writer, input: Operand, *, alpha: float) -> ir.Value:
    return w.op("Celu", input, alpha=float(alpha))


def softplus(w: Writer, input: Operand, *, beta: float, threshold: float) -> ir.Value:
    """``log(1 + exp(beta x)) / beta``, and ``x`` where ``beta x`` exceeds the threshold."""
    dtype = w.info(input).dtype
    scaled = input if beta == 1 else w.op("Mul", input, w.scalar(beta, dtype))
    made = w.op("Softplus", scaled)
    made = made if beta == 1 else w.op("Div", made, w.scalar(beta, dtype))
    if threshold >= _STRAIGHT:
        return made
    return w.op("Where", w.op("Greater", scaled, w.scalar(threshold, dtype)), input, made)


_STRAIGHT = 17.0
"""From where on softplus is its operand in float32."""


def softsign(w: Writer, input: Operand) -> ir.Value:
    return w.op("Softsign", input)


def logsigmoid(w: Writer, input: Operand) -> ir.Value:
    return w.op("Neg", w.op("Softplus", w.op("Neg", input)))


def hardshrink(w: Writer, input: Operand, *, lambd: float) -> ir.Value:
    return w.op("Shrink", input, lambd=float(lambd), bias=0.0)


def softshrink(w: Writer, input: Operand, *, lambd: float) -> ir.Value:
    return w.op("Shrink", input, lambd=float(lambd), bias=float(lambd))


def tanhshrink(w: Writer, input: Operand) -> ir.Value:
    return w.op("Sub", input, w.op("Tanh", input))


def threshold(w: Writer, input: Operand, *, threshold: float, value: float) -> ir.Value:
    dtype = w.info(input).dtype
    above = w.op("Greater", input, w.scalar(threshold, dtype))
    return w.op("Where", above, input, w.scalar(value, dtype))


def glu(w: Writer, input: Operand, *, dim: int) -> ir.Value:
    kept, gate = w.ops("Split", input, results=2, axis=dim, num_outputs=2)
    return w.op("Mul", kept, w.op("Sigmoid", gate))


def softmax(w: Writer, input: Operand, *, dim: int, dtype: torch.dtype | None) -> ir.Value:
    return w.op("Softmax", input if dtype is None else w.cast(input, dtype), axis=dim)


def log_softmax(w: Writer, input: Operand, *, dim: int, dtype: torch.dtype | None) -> ir.Value:
    return w.op("LogSoftmax", input if dtype is None else w.cast(input, dtype), axis=dim)
