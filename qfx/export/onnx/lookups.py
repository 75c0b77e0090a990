"""Rows of embeddings that integers name, and bags of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qfx.export.onnx.values import Dequantized, Operand
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
    if padding_idx is not None:
        raise CannotWrite("bags with padding", "Leave padding_idx out.")
    found = rows(w, input, weight)
    if per_sample_weights is not None:
        found = w.op("Mul", found, w.op("Unsqueeze", per_sample_weights, w.vector([-1])))
    if w.info(input).rank == 2:
        kind = {"sum": "ReduceSum", "mean": "ReduceMean", "max": "ReduceMax"}[mode]
        return w.op(kind, found, w.vector([1]), keepdims=0)
    if offsets is None or mode == "max":
        raise CannotWrite("the maxima of bags of several lengths", "Use mode='sum' or 'mean'.")
    members = _members(w, input, offsets, include_last_offset)
    summed = w.op("MatMul", members, found)
    if mode == "sum":
        return summed
    count = w.op("ReduceSum", members, w.vector([1]), keepdims=1)
    return w.op("Div", summed, w.op("Max", count, w.scalar(1.0, torch.float32)))


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
