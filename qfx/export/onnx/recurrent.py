"""Recurrent layers: LSTM, GRU and RNN of ONNX, one a layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from qfx.export.onnx import cells, contrib, measured_steps
from qfx.export.onnx.gates import in_order, one_bias, stacked
from qfx.export.onnx.packed import Lengths, PackedRows, lengths_of, padded_rows
from qfx.export.onnx.packed_shapes import PackedParts
from qfx.export.onnx.values import Dequantized, Info, Operand
from qfx.export.problems import CannotWrite
from qfx.semantics.recurrent_steps import pairs

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer


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


@dataclass(frozen=True)
class _Recurrence:
    """The layers of one call.

    Attributes:
        kind: the operator of ONNX.
        weights, biases: of input and hidden state, by layer and direction.
        states: initial ones, or none.
        measured: the codes that hidden states are rounded to; None where they aren't.
        layers, ways: how many layers there are, and directions.
        activation: of a plain RNN.
    """

    kind: str
    weights: Sequence[Operand]
    biases: Sequence[Operand]
    states: tuple[Operand, ...]
    measured: Any
    layers: int
    ways: int
    activation: str


def _sequence(
    w: Writer,
    kind: str,
    input: Any,
    weights: Sequence[Operand],
    biases: Sequence[Operand],
    states: tuple[Operand, ...],
    packed: Any,
    measured: object,
    layout: tuple[int, bool, bool],
    activation: str = "",
) -> tuple[Any, ...]:
    layers, bidirectional, batch_first = layout
    ways = 2 if bidirectional else 1
    call = _Recurrence(kind, weights, biases, states, measured, layers, ways, activation)
    if packed is not None:
        return _of_packed(w, call, input, packed)
    _check(w.info(input).rank)
    of_engine = w.contrib and kind == "LSTM" and call.measured and call.measured[0] == torch.uint8
    source = contrib.unrounded(w, input) if of_engine else input
    x = _steps_first(w, source) if batch_first else source
    run = _layers if of_engine or measured is None else _measured_layers
    y, *last = run(w, call, x, None)
    return w.op("Transpose", y, perm=(1, 0, 2)) if batch_first else y, *last


def _of_packed(
    w: Writer, call: _Recurrence, rows: Any, packed: tuple[Any, Any, Any]
) -> tuple[Any, ...]:
    """The layers on sequences of several lengths; states are in the order of the batch."""
    sizes, order, back = packed
    lengths = lengths_of(sizes)
    x = padded_rows(w, rows, lengths)
    _check(w.info(x).rank)
    if order is not None:
        states = tuple(w.op("Gather", state, order, axis=1) for state in call.states)
        call = dataclasses.replace(call, states=states)
    run = _layers if call.measured is None else _measured_layers
    y, *last = run(w, call, x, lengths)
    if back is not None:
        last = [w.op("Gather", state, back, axis=1) for state in last]
    info, made = w.info(x), w.results[0][0]
    shape, example = (*info.shape[:2], made.shape[1]), (*info.example[:2], made.example[1])
    w.tell(y, Info(shape, example, info.dtype))
    return PackedParts(PackedRows(y, lengths, made), *packed), *last


def _layers(
    w: Writer, call: _Recurrence, x: Operand, known: Lengths | None
) -> tuple[ir.Value, ...]:
    """All layers, on (steps, batch, features): the sequence likewise, and the final states.

    Backwards, sequences of several lengths are turned around, each by itself, and read forwards:
    OpenVINO (2026.4) begins them at the last step of the longest.
    """
    hidden, lengths = w.info(call.weights[1]).example[1], None if known is None else known.each
    options = {"hidden_size": hidden, "linear_before_reset": 1 if call.kind == "GRU" else None}
    last: list[list[ir.Value]] = []
    for layer in range(call.layers):
        own = slice(layer * call.ways, (layer + 1) * call.ways)
        if lengths is None:
            y, *final = _layer(w, call, x, own, None, **options)
        else:
            y, *final = _to_ends(w, call, x, own.start, lengths, **options)
            if call.ways == 2:
                turned = w.op("ReverseSequence", x, lengths, time_axis=0, batch_axis=1)
                there = _to_ends(w, call, turned, own.start + 1, lengths, **options)
                y, *final = _both(w, (y, *final), there, lengths)
        # (steps, directions, batch, hidden) -> (steps, batch, directions * hidden)
        moved = w.op("Transpose", y, perm=(0, 2, 1, 3))
        x = w.op("Reshape", moved, w.vector([0, 0, call.ways * hidden]))
        last.append(final)
    joined = (w.op("Concat", *each, axis=0) for each in zip(*last, strict=True))
    return (w.value(x), *joined)


def _to_ends(
    w: Writer, call: _Recurrence, x: Operand, way: int, lengths: Operand, **options: Any
) -> tuple[ir.Value, ...]:
    """One direction of a layer; its last hidden states are picked out of the sequences.

    OpenVINO (2026.4) has others for sequences that end before the longest.
    """
    y, _, *cell = _layer(w, call, x, slice(way, way + 1), lengths, **options)
    batches = w.op("Transpose", w.op("Squeeze", y, w.vector([1])), perm=(1, 0, 2))
    ends = w.op("Unsqueeze", w.op("Sub", lengths, w.scalar(1, torch.int64)), w.vector([1]))
    last = w.op("GatherND", batches, ends, batch_dims=1)
    return (y, w.op("Unsqueeze", last, w.vector([0])), *cell)


def _measured_layers(
    w: Writer, call: _Recurrence, x: Operand, lengths: Lengths | None
) -> tuple[ir.Value, ...]:
    """All layers likewise, whose hidden states are rounded at each step."""
    hidden, ways, info = w.info(call.weights[1]).example[1], call.ways, w.info(x)
    step = _STEPS.get(call.kind) or cells.rnn_step(call.activation.lower())
    last: list[list[ir.Value]] = []
    for index in range(call.layers):
        own = slice(index * ways, (index + 1) * ways)
        parts = pairs(call.weights)[own], pairs(call.biases)[own] if call.biases else []
        given = [_rows(w, state, own) for state in call.states] or [
            w.op("Expand", w.scalar(0.0, torch.float32), w.vector([ways, w.size(x, 1), hidden]))
        ] * (2 if call.kind == "LSTM" else 1)
        read = measured_steps.rounded(w, x, call.measured) if index else x
        y, *final = measured_steps.layer(w, read, *parts, given, call.measured, step, lengths)
        moved = w.op("Transpose", y, perm=(0, 2, 1, 3))
        x = w.op("Reshape", moved, w.vector([0, 0, ways * hidden]))
        width = ways * hidden
        w.tell(x, Info((*info.shape[:2], width), (*info.example[:2], width), info.dtype))
        last.append(final)
    joined = (w.op("Concat", *each, axis=0) for each in zip(*last, strict=True))
    return (w.value(x), *joined)


_STEPS = {"LSTM": cells.lstm_step, "GRU": cells.gru_step}


def _both(
    w: Writer, forth: Sequence[ir.Value], back: Sequence[ir.Value], lengths: Operand
) -> list[ir.Value]:
    """Both directions of a layer, of which the second read sequences that were turned around."""
    steps = w.op("Squeeze", back[0], w.vector([1]))
    turned = w.op("ReverseSequence", steps, lengths, time_axis=0, batch_axis=1)
    y = w.op("Concat", forth[0], w.op("Unsqueeze", turned, w.vector([1])), axis=1)
    last = (w.op("Concat", *each, axis=0) for each in zip(forth[1:], back[1:], strict=True))
    return [y, *last]


def _layer(
    w: Writer,
    call: _Recurrence,
    x: Operand,
    own: slice,
    lengths: Operand | None,
    **attributes: Any,
) -> tuple[ir.Value, ...]:
    """One layer in some of its directions: the sequence, and the final states."""
    kind, measured = call.kind, call.measured
    weights = pairs(call.weights)[own]
    parts = pairs(call.biases)[own] if call.biases else []
    given = [_rows(w, state, own) for state in call.states]
    attributes["direction"] = "bidirectional" if len(weights) == 2 else "forward"
    if call.activation:
        attributes["activations"] = [call.activation] * len(weights)
    bias = one_bias(w, kind, parts)
    if measured is not None:
        ordered = [(in_order(w, kind, one), in_order(w, kind, other)) for one, other in weights]
        return contrib.measured_lstm(w, x, ordered, bias, given, measured, **attributes)
    arranged = (stacked(w, kind, [pair[i] for pair in weights]) for i in (0, 1))
    results = 3 if kind == "LSTM" else 2
    ends = None if lengths is None else w.cast(lengths, torch.int32)
    return w.ops(kind, x, *arranged, bias, ends, *given, results=results, **attributes)


def _check(rank: int) -> None:
    if rank != 3:
        raise CannotWrite("a sequence without a batch dimension", "Give the model batches.")


def _steps_first(w: Writer, x: Operand) -> Operand:
    """(steps, batch, features); of codes, if it is made of these."""
    if isinstance(x, Dequantized):
        codes = w.op("Transpose", x.codes, perm=(1, 0, 2))
        info, of_codes = (_exchanged(w.info(each)) for each in (x, x.codes))
        w.tell(codes, of_codes)
        return dataclasses.replace(x, codes=codes, info=info, written={})
    made = w.op("Transpose", x, perm=(1, 0, 2))
    w.tell(made, _exchanged(w.info(x)))
    return made


def _exchanged(info: Info) -> Info:
    (a, b, c), (i, j, k) = info.shape, info.example
    return Info((b, a, c), (j, i, k), info.dtype)


def _rows(w: Writer, state: Operand, own: slice) -> ir.Value:
    return w.op("Slice", state, w.vector([own.start]), w.vector([own.stop]), w.vector([0]))
