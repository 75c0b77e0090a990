"""What puts values in order, and picks them by order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from qfx.export.onnx import shapes
from qfx.export.onnx.values import Number, Operand
from qfx.export.problems import CannotWrite

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer


def sort(
    w: Writer, input: Operand, *, dim: int, descending: bool, stable: bool = False
) -> tuple[ir.Value, ...]:
    """Both results; of equal ones the first comes first, as ONNX Runtime has it."""
    return _top(w, input, w.size(input, dim), dim, descending)


def sort_values(w: Writer, input: Operand, *, dim: int, descending: bool) -> ir.Value:
    return sort(w, input, dim=dim, descending=descending)[0]


def argsort(
    w: Writer, input: Operand, *, dim: int, descending: bool, stable: bool = False
) -> ir.Value:
    return sort(w, input, dim=dim, descending=descending)[1]


def topk(
    w: Writer, input: Operand, *, k: int | Number, dim: int, largest: bool, sorted: bool = True
) -> tuple[ir.Value, ...]:
    return _top(w, input, k, dim, largest)


def topk_values(w: Writer, input: Operand, *, k: int | Number, dim: int, largest: bool) -> ir.Value:
    return _top(w, input, k, dim, largest)[0]


def kthvalue(
    w: Writer, input: Operand, *, k: int | Number, dim: int, keepdim: bool
) -> tuple[ir.Value, ...]:
    """The last of the ``k`` smallest, which are in order."""
    found = _top(w, input, k, dim, largest=False)
    last = w.vector([-1]) if keepdim else w.scalar(-1, torch.int64)
    return tuple(w.op("Gather", each, last, axis=dim) for each in found)


def _top(
    w: Writer, input: Operand, k: int | Number, dim: int, largest: bool
) -> tuple[ir.Value, ...]:
    return w.ops("TopK", input, w.vector([k]), results=2, axis=dim, largest=int(largest))


def take_along_dim(w: Writer, input: Operand, indices: Operand, *, dim: int | None) -> ir.Value:
    if dim is None:
        raise CannotWrite("places in a tensor taken as one row", "Flatten it, and name the dim.")
    have, wanted = w.info(input), w.info(indices)
    rest = [d for d in range(have.rank) if d != dim % have.rank]
    if any(have.shape[d] != wanted.shape[d] for d in rest):
        raise CannotWrite("places that are the same along a dim", "Expand them.", by_size=True)
    return shapes.gather(w, input, indices, dim=dim)


def scatter(w: Writer, input: Operand, index: Operand, src: Operand, *, dim: int) -> ir.Value:
    info = w.info(index)
    if isinstance(src, (int, float, Number)) or w.info(src).shape != info.shape:
        raise CannotWrite("a number or a part of a tensor that is put at places", "Expand it.")
    return w.op("ScatterElements", input, index, src, axis=dim)


_REDUCTIONS = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min"}


def scatter_reduce(
    w: Writer, input: Operand, index: Operand, src: Operand, *, dim: int, reduce: str,
    include_self: bool,
) -> ir.Value:  # fmt: skip
    if reduce not in _REDUCTIONS or not include_self:
        raise CannotWrite("means of what is put at places, or without what is there", "Add it.")
    if w.info(src).shape != w.info(index).shape:
        raise CannotWrite("a part of a tensor that is put at places", "Cut it before.")
    return w.op("ScatterElements", input, index, src, axis=dim, reduction=_REDUCTIONS[reduce])


def scatter_add(w: Writer, input: Operand, index: Operand, src: Operand, *, dim: int) -> ir.Value:
    if w.info(src).shape != w.info(index).shape:
        raise CannotWrite("a part of a tensor that is added at places", "Cut it before.")
    return w.op("ScatterElements", input, index, src, axis=dim, reduction="add")


def outer(w: Writer, input: Operand, other: Operand) -> ir.Value:
    return w.op("Mul", w.op("Unsqueeze", input, w.vector([1])), other)
