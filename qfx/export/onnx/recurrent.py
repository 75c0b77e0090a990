"""Recurrent layers: LSTM, GRU and RNN of ONNX, one a layer; cells step by step.

ONNX has the gates in another order: i o f c where PyTorch has i f g o, z r h where it has r z n.
Biases of input and hidden state are one vector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qfx.export.onnx import contrib
from qfx.export.onnx.layers import transposed
from qfx.export.onnx.values import Dequantized, Info, Number, Operand
from qfx.export.problems import CannotWrite
from qfx.semantics.recurrent_steps import pairs

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer

_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


def lstm(
    w: Writer,
    input: Operand,
    weights: Sequence[Operand],
    biases: Sequence[Operand],
    hx: Any,
    packed: Any,
    *,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
    measured: Any,
) -> Any:
    layout = num_layers, bidirectional, batch_first
    states = () if hx is None else tuple(hx)
    y, h, c = _sequence(w, "LSTM", input, weights, biases, states, packed, measured, layout)
    return y, (h, c)


def gru(
    w: Writer,
    input: Operand,
    weights: Sequence[Operand],
    biases: Sequence[Operand],
    hx: Any,
    packed: Any,
    *,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
    measured: Any,
) -> Any:
    layout = num_layers, bidirectional, batch_first
    states = () if hx is None else (hx,)
    return _sequence(w, "GRU", input, weights, biases, states, packed, measured, layout)


def rnn(
    w: Writer,
    input: Operand,
    weights: Sequence[Operand],
    biases: Sequence[Operand],
    hx: Any,
    packed: Any,
    *,
    nonlinearity: str,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
    measured: Any,
) -> Any:
    layout = num_layers, bidirectional, batch_first
    states = () if hx is None else (hx,)
    act = {"tanh": "Tanh", "relu": "Relu"}[nonlinearity]
    return _sequence(w, "RNN", input, weights, biases, states, packed, measured, layout, act)


def _sequence(
    w: Writer,
    kind: str,
    input: Operand,
    weights: Sequence[Operand],
    biases: Sequence[Operand],
    states: tuple[Operand, ...],
    packed: object,
    measured: object,
    layout: tuple[int, bool, bool],
    activation: str = "",
) -> tuple[ir.Value, ...]:
    layers, bidirectional, batch_first = layout
    ways = 2 if bidirectional else 1
    _check(w, kind, input, packed, measured)
    hidden = w.info(weights[1]).example[1]
    source = input if measured is None else contrib.unrounded(w, input)
    x: Operand = w.op("Transpose", source, perm=(1, 0, 2)) if batch_first else source
    last: list[list[ir.Value]] = []
    for layer in range(layers):
        own = slice(layer * ways, (layer + 1) * ways)
        parts = pairs(weights)[own], pairs(biases)[own] if biases else []
        given = [_rows(w, state, own) for state in states]
        y, *final = _layer(
            w,
            kind,
            x,
            *parts,
            given,
            measured,
            hidden_size=hidden,
            direction="bidirectional" if bidirectional else "forward",
            linear_before_reset=1 if kind == "GRU" else None,
            activations=[activation] * ways if activation else None,
        )
        # (steps, directions, batch, hidden) -> (steps, batch, directions * hidden)
        moved = w.op("Transpose", y, perm=(0, 2, 1, 3))
        x = w.op("Reshape", moved, w.vector([0, 0, ways * hidden]))
        last.append(final)
    whole = w.op("Transpose", x, perm=(1, 0, 2)) if batch_first else w.value(x)
    joined = (w.op("Concat", *each, axis=0) for each in zip(*last, strict=True))
    return (whole, *joined)


def _layer(
    w: Writer,
    kind: str,
    x: Operand,
    weights: Sequence[tuple[Operand, Operand]],
    biases: Sequence[tuple[Operand, Operand]],
    given: Sequence[ir.Value],
    measured: Any,
    **attributes: Any,
) -> tuple[ir.Value, ...]:
    """One layer in all its directions: the sequence, and the final states."""
    bias = _biases(w, kind, biases)
    if measured is not None:
        ordered = [(_in_order(w, kind, own), _in_order(w, kind, other)) for own, other in weights]
        return contrib.measured_lstm(w, x, ordered, bias, given, measured, **attributes)
    stacked = (_stacked(w, kind, [pair[i] for pair in weights]) for i in (0, 1))
    results = 3 if kind == "LSTM" else 2
    return w.ops(kind, x, *stacked, bias, None, *given, results=results, **attributes)


def _check(w: Writer, kind: str, input: Operand, packed: object, measured: Any) -> None:
    if packed is not None:
        raise CannotWrite("packed sequences", "Give the layer padded tensors.")
    if w.info(input).rank != 3:
        raise CannotWrite("a sequence without a batch dimension", "Give the model batches.")
    written = w.contrib and kind == "LSTM" and measured and measured[0] == torch.uint8
    if measured is not None and not written:
        raise CannotWrite(
            "a hidden state that is rounded anew at each step, over its measured range",
            "Quantize the recurrent layers with method='weight_only' (set_object_type).",
        )


def _rows(w: Writer, state: Operand, own: slice) -> ir.Value:
    return w.op("Slice", state, w.vector([own.start]), w.vector([own.stop]), w.vector([0]))


def _stacked(w: Writer, kind: str, weights: Sequence[Operand]) -> ir.Value:
    """(directions, gates * hidden, inputs), gates in the order of ONNX."""
    each = [w.op("Unsqueeze", _in_order(w, kind, weight), w.vector([0])) for weight in weights]
    return each[0] if len(each) == 1 else w.op("Concat", *each, axis=0)


def _in_order(w: Writer, kind: str, weight: Operand) -> Operand:
    order = _ORDER[kind]
    if isinstance(weight, Tensor):
        return _gates(weight, order)
    if isinstance(weight, Dequantized) and weight.stored and weight.axis in (None, 0):
        codes, scale, zero_point = (
            _gates(n, order) if isinstance(n, Tensor) and n.dim() else n
            for n in (weight.codes, weight.scale, weight.zero_point)
        )
        return dataclasses.replace(
            weight, codes=codes, scale=scale, zero_point=zero_point, written={}
        )
    if len(order) == 1:
        return weight
    parts = w.ops("Split", weight, results=len(order), axis=0, num_outputs=len(order))
    return w.op("Concat", *(parts[i] for i in order), axis=0)


def _gates(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    parts = tensor.chunk(len(order))
    return torch.cat([parts[i] for i in order])


def _biases(w: Writer, kind: str, biases: Sequence[tuple[Operand, Operand]]) -> ir.Value | None:
    """(directions, 2 * gates * hidden): of the input, then of the hidden state."""
    if not biases:
        return None
    each = [w.op("Concat", *(_in_order(w, kind, part) for part in pair), axis=0) for pair in biases]
    rows = [w.op("Unsqueeze", row, w.vector([0])) for row in each]
    return rows[0] if len(rows) == 1 else w.op("Concat", *rows, axis=0)


# -- cells -----------------------------------------------------------------------------------------
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
