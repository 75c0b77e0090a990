"""Recurrent layers whose hidden states are rounded anew at each step: a Scan over the steps.

    projected_t = W_ih x_t + b_ih            outside, all steps at once
    h_t = step(projected_t, W_hh round(h_(t-1)) + b_hh)

round measures the range of the batch in all directions (:mod:`qfx.semantics.recurrent_steps`). A
direction that reads backwards reads what was turned around. A sequence that has ended keeps its
state, and has no part in the range.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from qfx.export.onnx import layers, quantization
from qfx.export.onnx.packages import require
from qfx.export.onnx.packed import Lengths
from qfx.export.onnx.values import Dequantized, Dim, Info, Operand
from qfx.semantics.recurrent_steps import MeasuredCodes

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer

WriteStep: TypeAlias = "Callable[[Writer, ir.Value, ir.Value, Sequence[Operand]], list[ir.Value]]"
"""The next states, of what gates get of the input and of the hidden state, and the last states."""


def rounded(w: Writer, value: Operand, codes: MeasuredCodes) -> Dequantized:
    """What the codes of a tensor stand for, its range being measured."""
    dtype, low, high, symmetric = codes
    ends: dict[str, Any] = {"dtype": dtype, "quant_min": low, "quant_max": high}
    scale, zero = quantization.dynamic_qparams(
        w, value, symmetric=symmetric, power_of_two=False, **ends
    )
    made = quantization.quantize(w, value, scale, zero, axis=None, group_size=None, **ends)
    assert w.node is not None
    return Dequantized(made, scale, zero, w.info(value), None, None, w.node.name)


def layer(
    w: Writer,
    x: Operand,
    weights: Sequence[tuple[Operand, Operand]],
    biases: Sequence[tuple[Operand, Operand]],
    states: Sequence[Operand],
    codes: MeasuredCodes,
    step: WriteStep,
    lengths: Lengths | None,
) -> tuple[ir.Value, ...]:
    """One layer in all its directions.

    Args:
        w: where it is written.
        x: what it reads, rounded: (steps, batch, features).
        weights: of input and hidden state, for each direction.
        biases: likewise, or none.
        states: initial ones, (directions, batch, hidden) each.
        codes: that hidden states are rounded to.
        step: how the next states are written.
        lengths: of the sequences, if they differ.

    Returns:
        The sequence (steps, directions, batch, hidden), and the final states.
    """
    info, ways = w.info(x), len(weights)
    own: Sequence[tuple[Operand | None, Operand | None]] = biases or [(None, None)] * ways
    projected = []
    for way, ((of_input, _), (bias, _)) in enumerate(zip(weights, own, strict=True)):
        made = layers.linear(w, x, of_input, bias)
        made = _turned(w, made, lengths) if way else made
        projected.append(w.op("Unsqueeze", made, w.vector([1])))
    rows = projected[0] if ways == 1 else w.op("Concat", *projected, axis=1)
    masks = [] if lengths is None else [w.op("Unsqueeze", lengths.mask(w), w.vector([2]))]
    sizes = info.shape[1], info.example[1]
    recurrent = [(pair[1], bias[1]) for pair, bias in zip(weights, own, strict=True)]
    body = _body(w, sizes, recurrent, len(states), codes, step, masked=bool(masks))
    *last, y = w.ops(
        "Scan", *states, rows, *masks, results=len(states) + 1, body=body,
        num_scan_inputs=1 + len(masks),
    )  # fmt: skip
    if ways == 2:
        forth, back = (w.op("Gather", y, w.scalar(way, torch.int64), axis=1) for way in (0, 1))
        both = (
            w.op("Unsqueeze", each, w.vector([1])) for each in (forth, _turned(w, back, lengths))
        )
        y = w.op("Concat", *both, axis=1)
    return y, *last


def _turned(w: Writer, value: Operand, lengths: Lengths | None) -> ir.Value:
    """(steps, batch, ...) from the last step of each sequence to its first."""
    if lengths is not None:
        return w.op("ReverseSequence", value, lengths.each, time_axis=0, batch_axis=1)
    ends = (w.vector([end]) for end in (-1, -(2**31), 0, -1))
    return w.op("Slice", value, *ends)


def _body(
    w: Writer,
    batch: tuple[Dim, int],
    recurrent: Sequence[tuple[Operand, Operand | None]],
    states: int,
    codes: MeasuredCodes,
    step: WriteStep,
    *,
    masked: bool,
) -> ir.Graph:
    """What is computed at a step; constants are those of the graph around it."""
    ways, gates, hidden = len(recurrent), *w.info(recurrent[0][0]).example
    outside, w.nodes = w.nodes, []

    def given(name: str, *dims: int, dtype: torch.dtype = torch.float32) -> ir.Value:
        value = w.new_value(w.name(name))
        lead = dims[:-1]
        w.tell(value, Info((*lead, batch[0], dims[-1]), (*lead, batch[1], dims[-1]), dtype))
        return value

    before = [given("state", ways, hidden) for _ in range(states)]
    inputs = [*before, given("projected", ways, gates)]
    going: Operand = before[0]
    if masked:
        inputs.append(given("going", 1, dtype=torch.bool))
        going = w.op("Where", inputs[-1], before[0], w.scalar(0.0, torch.float32), like=before[0])
    read = rounded(w, going, codes)
    products = [_product(w, read, way, *parts) for way, parts in enumerate(recurrent)]
    product = products[0] if ways == 1 else w.op("Concat", *products, axis=0)
    after = step(w, inputs[states], product, before)
    if masked:
        after = [
            w.op("Where", inputs[-1], new, old) for new, old in zip(after, before, strict=True)
        ]
    for value, like in zip(after, before, strict=True):
        w.tell(value, w.info(like))
    outputs = [*after, w.op("Identity", after[0], like=after[0])]
    nodes, w.nodes = w.nodes, outside
    made: ir.Graph = require("onnx_ir").Graph(inputs, outputs, nodes=nodes, name=w.name("step"))
    return made


def _product(
    w: Writer, read: Dequantized, way: int, weight: Operand, bias: Operand | None
) -> ir.Value:
    """What the hidden state of one direction gives the gates: (1, batch, gates)."""
    picked = w.op("Gather", read.codes, w.vector([way]), axis=0)
    info = Info((1, *read.info.shape[1:]), (1, *read.info.example[1:]), read.info.dtype)
    w.tell(picked, dataclasses.replace(info, dtype=w.info(read.codes).dtype))
    if isinstance(weight, Dequantized):  # what is written of it here is not there outside
        weight = dataclasses.replace(weight, written={})
    return layers.linear(
        w, dataclasses.replace(read, codes=picked, info=info, written={}), weight, bias
    )
