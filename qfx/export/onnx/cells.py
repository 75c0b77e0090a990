"""Cells of recurrent layers: one step each, gate by gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

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
    measured: object,
) -> tuple[ir.Value, ir.Value]:
    states = _states(w, input, weights, hx, 2)
    x, h = _projections(w, input, weights, biases, states[0], measured)
    i, f, g, o = w.ops("Split", w.op("Add", x, h), results=4, axis=-1, num_outputs=4)
    kept = w.op("Mul", w.op("Sigmoid", f), states[1])
    c = w.op("Add", kept, w.op("Mul", w.op("Sigmoid", i), w.op("Tanh", g)))
    return w.op("Mul", w.op("Sigmoid", o), w.op("Tanh", c)), c


def gru_cell(
    w: Writer,
    input: Operand,
    weights: Sequence[Operand],
    biases: Sequence[Operand],
    hx: object,
    *,
    measured: object,
) -> ir.Value:
    (state,) = _states(w, input, weights, None if hx is None else (hx,), 1)
    both = _projections(w, input, weights, biases, state, measured)
    x, h = (w.ops("Split", part, results=3, axis=-1, num_outputs=3) for part in both)
    reset, update = (w.op("Sigmoid", w.op("Add", x[i], h[i])) for i in (0, 1))
    new = w.op("Tanh", w.op("Add", x[2], w.op("Mul", reset, h[2])))
    return w.op("Add", new, w.op("Mul", update, w.op("Sub", state, new)))


def rnn_cell(
    w: Writer,
    input: Operand,
    weights: Sequence[Operand],
    biases: Sequence[Operand],
    hx: object,
    *,
    nonlinearity: str,
    measured: object,
) -> ir.Value:
    (state,) = _states(w, input, weights, None if hx is None else (hx,), 1)
    x, h = _projections(w, input, weights, biases, state, measured)
    return w.op({"tanh": "Tanh", "relu": "Relu"}[nonlinearity], w.op("Add", x, h))


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
    measured: object,
) -> tuple[ir.Value, ir.Value]:
    """What the gates get of the input, and of the hidden state."""
    if measured is not None:
        raise CannotWrite(
            "a hidden state that is rounded at each step, over its measured range",
            "Quantize the recurrent layers with method='weight_only' (set_object_type).",
        )
    made = []
    for value, weight, bias in zip((input, state), weights, biases or (None, None), strict=True):
        product = w.op("MatMul", value, transposed(w, weight))
        made.append(product if bias is None else w.op("Add", product, bias))
    return made[0], made[1]
