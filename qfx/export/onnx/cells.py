"""Cells of recurrent layers: one step each, gate by gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from qfx.export.onnx import layers, measured_steps
from qfx.export.onnx.layers import transposed
from qfx.export.onnx.values import Info, Number, Operand
from qfx.export.problems import CannotWrite

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer


def lstm_cell(
    w: Writer,
    input: Operand,
    weights: Sequence[Operand],
    biases: Sequence[Operand],
    hx: object,
    *,
    measured: Any,
) -> tuple[ir.Value, ir.Value]:
    states = _states(w, input, weights, hx, 2)
    x, h = _projections(w, input, weights, biases, states[0], measured)
    h, c = lstm_step(w, x, h, states)
    return h, c


def gru_cell(
    w: Writer,
    input: Operand,
    weights: Sequence[Operand],
    biases: Sequence[Operand],
    hx: object,
    *,
    measured: Any,
) -> ir.Value:
    (state,) = _states(w, input, weights, None if hx is None else (hx,), 1)
    both = _projections(w, input, weights, biases, state, measured)
    return gru_step(w, *both, (state,))[0]


def rnn_cell(
    w: Writer,
    input: Operand,
    weights: Sequence[Operand],
    biases: Sequence[Operand],
    hx: object,
    *,
    nonlinearity: str,
    measured: Any,
) -> ir.Value:
    (state,) = _states(w, input, weights, None if hx is None else (hx,), 1)
    x, h = _projections(w, input, weights, biases, state, measured)
    return rnn_step(nonlinearity)(w, x, h, (state,))[0]


# -- steps -----------------------------------------------------------------------------------------
def lstm_step(w: Writer, x: ir.Value, h: ir.Value, states: Sequence[Operand]) -> list[ir.Value]:
    i, f, g, o = w.ops("Split", w.op("Add", x, h), results=4, axis=-1, num_outputs=4)
    kept = w.op("Mul", w.op("Sigmoid", f), states[1])
    c = w.op("Add", kept, w.op("Mul", w.op("Sigmoid", i), w.op("Tanh", g)))
    return [w.op("Mul", w.op("Sigmoid", o), w.op("Tanh", c)), c]


def gru_step(w: Writer, x: ir.Value, h: ir.Value, states: Sequence[Operand]) -> list[ir.Value]:
    own, other = (w.ops("Split", part, results=3, axis=-1, num_outputs=3) for part in (x, h))
    reset, update = (w.op("Sigmoid", w.op("Add", own[i], other[i])) for i in (0, 1))
    new = w.op("Tanh", w.op("Add", own[2], w.op("Mul", reset, other[2])))
    return [w.op("Add", new, w.op("Mul", update, w.op("Sub", states[0], new)))]


def rnn_step(nonlinearity: str) -> measured_steps.WriteStep:
    """That of a plain RNN."""
    kind = {"tanh": "Tanh", "relu": "Relu"}[nonlinearity]
    return lambda w, x, h, states: [w.op(kind, w.op("Add", x, h))]


def _states(
    w: Writer, input: Operand, weights: Sequence[Operand], hx: Any, count: int
) -> tuple[Operand, ...]:
    if w.info(input).rank != 2:
        raise CannotWrite("a cell without a batch dimension", "Give the model batches.")
    if hx is not None:
        return tuple(hx)
    hidden = w.info(weights[1]).example[1]
    sizes: list[int | Number] = [w.size(input, 0), hidden]
    zero = w.op("Expand", w.scalar(0.0, torch.float32), w.vector(sizes))
    w.tell(zero, Info((w.info(input).shape[0], hidden), (1, hidden), torch.float32))
    return (zero,) * count


def _projections(
    w: Writer,
    input: Operand,
    weights: Sequence[Operand],
    biases: Sequence[Operand],
    state: Operand,
    measured: Any,
) -> tuple[ir.Value, ir.Value]:
    """What the gates get of the input, and of the hidden state."""
    if measured is not None:
        read = measured_steps.rounded(w, state, measured)
        own, other = biases or (None, None)
        of_input = layers.linear(w, input, weights[0], own)
        return of_input, layers.linear(w, read, weights[1], other)
    made = []
    for value, weight, bias in zip((input, state), weights, biases or (None, None), strict=True):
        product = w.op("MatMul", value, transposed(w, weight))
        made.append(product if bias is None else w.op("Add", product, bias))
    return made[0], made[1]
