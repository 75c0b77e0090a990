"""What stands in brackets: slices, numbers, new dims, tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from qfx.export.onnx.shapes import END, index_of
from qfx.export.onnx.values import Info, Number, Operand
from qfx.export.problems import CannotWrite

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer


def getitem(w: Writer, input: Any, index: Any) -> Any:
    """An element of a container, or a part of a tensor."""
    if isinstance(input, (tuple, list, dict)):
        return input[index]
    items = list(index) if isinstance(index, tuple) else [index]
    rank = w.info(input).rank
    used = sum(1 for item in items if item is not None and item is not Ellipsis)
    if Ellipsis in [i for i in items if not _is_tensor(i)]:
        place = next(i for i, item in enumerate(items) if item is Ellipsis)
        items[place : place + 1] = [slice(None)] * (rank - used)
    return _indexed(w, input, items)


def _is_tensor(item: object) -> bool:
    return not isinstance(item, (int, slice, type(None), type(Ellipsis), Number))


def _indexed(w: Writer, input: Operand, items: Sequence[object]) -> Operand:
    """Slices first, then picks from the last dim on, then new dims."""
    made = input
    axes = [i for i, item in enumerate(x for x in items if x is not None)]
    real = [item for item in items if item is not None]
    if sum(map(_is_tensor, real)) > 1:
        return _picked(w, input, items)
    cut = [(a, i) for a, i in zip(axes, real, strict=True) if isinstance(i, slice) and not _all(i)]
    if cut:
        made = _sliced(w, made, cut)
    for axis, item in reversed(list(zip(axes, real, strict=True))):
        if isinstance(item, (int, Number)):
            made = w.op("Gather", made, index_of(w, item), axis=axis)
        elif _is_tensor(item):
            made = _taken(w, made, item, axis, items)
    kept = [item for item in items if item is None or isinstance(item, slice) or _is_tensor(item)]
    new = [place for place, item in enumerate(kept) if item is None]
    return w.op("Unsqueeze", made, w.vector(new)) if new else made


def _picked(w: Writer, input: Operand, items: Sequence[Any]) -> ir.Value:
    """One index for each of the first dims, all of one shape or broadcast to it."""
    indices = [item for item in items if _is_tensor(item)]
    rest = items[len(indices) :]
    leads = all(map(_is_tensor, items[: len(indices)])) and all(
        isinstance(item, slice) and _all(item) for item in rest
    )
    if not leads or any(w.info(item).dtype == torch.bool for item in indices):
        raise CannotWrite("indexing by several tensors and more", "Use torch.gather.")
    each = [w.cast(item, torch.int64) for item in indices]
    together = each[0]
    for other in each[1:]:
        together = w.op("Add", together, other)
    shape = w.op("Shape", together)
    apart = (w.op("Unsqueeze", w.op("Expand", e, shape), w.vector([-1])) for e in each)
    return w.op("GatherND", input, w.op("Concat", *apart, axis=-1))


def _taken(w: Writer, made: Operand, item: Any, axis: int, items: Sequence[object]) -> ir.Value:
    if isinstance(item, (list, tuple)):
        item = torch.tensor(item)
    info = w.info(item)
    if info.dtype == torch.bool:
        raise CannotWrite("as many elements as a mask has", "Use torch.where.")
    if info.rank != 1 and any(i is None for i in items):
        raise CannotWrite("indexing by a tensor, with new dims", "Use unsqueeze.")
    return w.op("Gather", made, item, axis=axis)


def _all(item: slice) -> bool:
    return item.start in (None, 0) and item.stop is None and item.step in (None, 1)


def _sliced(w: Writer, input: Operand, cut: Sequence[tuple[int, slice]]) -> ir.Value:
    starts = [0 if s.start is None else s.start for _, s in cut]
    ends = [END if s.stop is None else s.stop for _, s in cut]
    steps = [1 if s.step is None else s.step for _, s in cut]
    axes = [axis for axis, _ in cut]
    return w.op("Slice", input, *map(w.vector, (starts, ends, axes, steps)))


def setitem(w: Writer, input: Operand, index: Any, value: Operand) -> ir.Value:
    """A copy with a part of it set: what the part is made of is picked out of all places."""
    info = w.info(input)
    items = index if isinstance(index, (tuple, list)) else [index]
    masks = [i for i in items if _is_tensor(i) and not isinstance(i, (list, tuple))]
    if any(w.info(mask).dtype == torch.bool for mask in masks):
        return _masked(w, input, items, value)
    sizes = [w.size(input, dim) for dim in range(info.rank)]
    count = w.op("ReduceProd", w.vector(sizes), keepdims=0)
    ends = w.scalar(0, torch.int64), count, w.scalar(1, torch.int64)
    every = w.op("Reshape", w.op("Range", *ends), w.vector(sizes))
    w.tell(every, Info(info.shape, info.example, torch.int64))
    places = getitem(w, every, index)
    put = w.cast(value, info.dtype)
    broadcast = w.op("Where", w.op("GreaterOrEqual", places, w.scalar(0, torch.int64)), put, put)
    flat, at, with_ = (w.op("Reshape", x, w.vector([-1])) for x in (input, places, broadcast))
    made = w.op("ScatterElements", flat, at, with_, axis=0)
    return w.op("Reshape", made, w.vector(sizes), like=input)


def _masked(w: Writer, input: Operand, items: Sequence[Any], value: Operand) -> ir.Value:
    """One number wherever a mask over the first dims holds."""
    info = w.info(input)
    if len(items) != 1 or w.info(value).rank:
        raise CannotWrite(
            "several numbers where a mask holds, or a mask beside other indices",
            "Use torch.where with a value for each element.",
        )
    (mask,) = items
    behind = range(w.info(mask).rank, info.rank)
    spread = w.op("Unsqueeze", mask, w.vector(behind)) if behind else mask
    return w.op("Where", spread, w.cast(value, info.dtype), input, like=input)
