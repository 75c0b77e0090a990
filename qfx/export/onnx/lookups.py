"""Rows of embeddings that integers name, and bags of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qfx.export.onnx.values import Dequantized, Info, Operand
from qfx.export.problems import CannotWrite

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer


def embedding(
    w: Writer,
    input: Operand,
    weight: Operand,
    *,
    padding_idx: int | None,
    scale_grad_by_freq: bool,
    sparse: bool,
) -> ir.Value:
    """Rows of codes are gathered, and what they mean: the table is never widened."""
    return rows(w, input, weight)


def rows(w: Writer, input: Operand, weight: Operand) -> ir.Value:
    """The rows that integers name."""
    if not isinstance(weight, Dequantized) or weight.axis != 0:
        return w.op("Gather", weight, input, axis=0)
    if weight.group_size is not None or not isinstance(weight.scale, Tensor):
        return w.op("Gather", weight, input, axis=0)
    codes = w.op("Gather", w.value(weight.codes), input, axis=0)
    widened = w.op("Cast", codes, to=int(w.dtype(torch.float32)))
    zero = torch.as_tensor(weight.zero_point, dtype=torch.float32)
    if bool(zero.any()):
        widened = w.op("Sub", widened, w.op("Gather", zero.reshape(-1, 1), input, axis=0))
    return w.op("Mul", widened, w.op("Gather", weight.scale.reshape(-1, 1), input, axis=0))


def embedding_bag(
    w: Writer,
    input: Operand,
    weight: Operand,
    offsets: Operand | None,
    per_sample_weights: Operand | None,
    *,
    mode: str,
    include_last_offset: bool,
    padding_idx: int | None,
    scale_grad_by_freq: bool,
    sparse: bool,
) -> ir.Value:
    """Bags of one length are reduced; others are summed up by a matrix of ones and zeros."""
    found = rows(w, input, weight)
    if per_sample_weights is not None:
        found = w.op("Mul", found, w.op("Unsqueeze", per_sample_weights, w.vector([-1])))
    counts = None if padding_idx is None else _counts(w, input, weight, padding_idx)
    if w.info(input).rank == 2:
        return _reduced(w, found, mode, counts)
    if offsets is None or mode == "max":
        raise CannotWrite("the maxima of bags of several lengths", "Use mode='sum' or 'mean'.")
    members = _members(w, input, offsets, include_last_offset)
    if counts is not None:
        members = w.op("Mul", members, w.cast(counts, torch.float32))
    summed = w.op("MatMul", members, found)
    if mode == "sum":
        return summed
    count = w.op("ReduceSum", members, w.vector([1]), keepdims=1)
    return w.op("Div", summed, w.op("Max", count, w.scalar(1.0, torch.float32)))


def _counts(w: Writer, input: Operand, weight: Operand, padding_idx: int) -> ir.Value:
    """Which entries are rows, and no padding."""
    info = w.info(input)
    place = w.scalar(padding_idx % w.info(weight).example[0], info.dtype)
    made = w.op("Not", w.op("Equal", input, place))
    w.tell(made, Info(info.shape, info.example, torch.bool))
    return made


def _reduced(w: Writer, found: Operand, mode: str, counts: ir.Value | None) -> ir.Value:
    """Bags (bags, entries, features) of one length; bags of padding alone are zero."""
    along = w.vector([1])
    kind = {"sum": "ReduceSum", "mean": "ReduceMean", "max": "ReduceMax"}[mode]
    if counts is None:
        return w.op(kind, found, along, keepdims=0)
    own = w.op("Unsqueeze", w.cast(counts, torch.float32), w.vector([2]))
    whole = w.op("ReduceSum", own, along, keepdims=0)
    if mode == "max":
        zero, least = (w.scalar(n, torch.float32) for n in (0.0, torch.finfo(torch.float32).min))
        shown = w.op("Where", w.op("Unsqueeze", counts, w.vector([2])), found, least)
        largest = w.op("ReduceMax", shown, along, keepdims=0)
        return w.op("Where", w.op("Greater", whole, zero), largest, zero)
    summed = w.op("ReduceSum", w.op("Mul", found, own), along, keepdims=0)
    if mode == "sum":
        return summed
    return w.op("Div", summed, w.op("Max", whole, w.scalar(1.0, torch.float32)))


def _members(w: Writer, input: Operand, offsets: Operand, include_last: bool) -> ir.Value:
    """f32[bags, entries]: 1 where an entry lies in a bag, from its offset up to the next."""
    zero, one = w.scalar(0, torch.int64), w.scalar(1, torch.int64)
    count = w.op("Squeeze", w.op("Shape", input), w.vector([0]))
    entries = w.op("Unsqueeze", w.op("Range", zero, count, one), w.vector([0]))
    starts = w.cast(offsets, torch.int64)
    if include_last:
        starts = w.op("Slice", starts, w.vector([0]), w.vector([-1]), w.vector([0]))
    after = w.op("Slice", starts, w.vector([1]), w.vector([2**62]), w.vector([0]))
    last = w.op("Shape", input)
    if include_last:
        last = w.op("Slice", w.cast(offsets, torch.int64), w.vector([-1]), w.vector([2**62]))
    ends = w.op("Concat", after, last, axis=0)
    column = w.vector([1])
    begun = w.op("GreaterOrEqual", entries, w.op("Unsqueeze", starts, column))
    going = w.op("Less", entries, w.op("Unsqueeze", ends, column))
    inside = w.op("And", begun, going)
    return w.op("Cast", inside, to=int(w.dtype(torch.float32)))
