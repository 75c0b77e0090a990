"""Normalization, and the lengths that it divides by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qfx.export.onnx.pools import reduced
from qfx.export.onnx.values import Operand
from qfx.export.problems import CannotWrite

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer


def batch_norm(
    w: Writer,
    input: Operand,
    running_mean: Operand,
    running_var: Operand,
    weight: Operand | None,
    bias: Operand | None,
    *,
    eps: float,
) -> ir.Value:
    (channels,) = w.info(running_mean).example
    scale = torch.ones(channels) if weight is None else weight
    shift = torch.zeros(channels) if bias is None else bias
    return w.op(
        "BatchNormalization", input, scale, shift, running_mean, running_var, epsilon=float(eps)
    )


def layer_norm(
    w: Writer,
    input: Operand,
    weight: Operand | None,
    bias: Operand | None,
    *,
    normalized_shape: Sequence[int],
    eps: float,
) -> ir.Value:
    scale = torch.ones(tuple(normalized_shape)) if weight is None else weight
    axis = -len(tuple(normalized_shape))
    return w.op("LayerNormalization", input, scale, bias, axis=axis, epsilon=float(eps))


def group_norm(
    w: Writer,
    input: Operand,
    weight: Operand | None,
    bias: Operand | None,
    *,
    num_groups: int,
    eps: float,
) -> ir.Value:
    """InstanceNormalization of the groups as channels, then scale and shift of the channels."""
    info = w.info(input)
    grouped = w.op("Reshape", input, w.vector([0, num_groups, -1]))
    ones, zeros = torch.ones(num_groups), torch.zeros(num_groups)
    normed = w.op("InstanceNormalization", grouped, ones, zeros, epsilon=float(eps))
    made = w.op("Reshape", normed, w.vector([w.size(input, d) for d in range(info.rank)]))
    for kind, each in (("Mul", weight), ("Add", bias)):
        if each is not None:
            made = w.op(kind, made, _per_channel(w, each, info.rank))
    return made


def instance_norm(
    w: Writer, input: Operand, weight: Operand | None, bias: Operand | None, *, eps: float
) -> ir.Value:
    info = w.info(input)
    channels = info.shape[1]
    if info.rank < 3 or not isinstance(channels, int):
        raise CannotWrite("instance normalization without a batch", "Give the model batches.")
    scale = torch.ones(channels) if weight is None else weight
    shift = torch.zeros(channels) if bias is None else bias
    return w.op("InstanceNormalization", input, scale, shift, epsilon=float(eps))


def rms_norm(
    w: Writer,
    input: Operand,
    weight: Operand | None,
    *,
    normalized_shape: Sequence[int],
    eps: float | None,
) -> ir.Value:
    dtype = w.info(input).dtype
    axes = w.vector([-1 - i for i in range(len(tuple(normalized_shape)))])
    least = torch.finfo(dtype).eps if eps is None else eps
    square = w.op("ReduceMean", w.op("Mul", input, input), axes, keepdims=1)
    made = w.op("Div", input, w.op("Sqrt", w.op("Add", square, w.scalar(least, dtype))))
    return made if weight is None else w.op("Mul", made, weight)


def local_response_norm(
    w: Writer, input: Operand, *, size: int, alpha: float, beta: float, k: float
) -> ir.Value:
    if size % 2 == 0:
        raise CannotWrite("an even number of channels around each", "Give it an odd size.")
    return w.op("LRN", input, alpha=float(alpha), beta=float(beta), bias=float(k), size=size)


def normalize(w: Writer, input: Operand, *, p: float, dim: int, eps: float) -> ir.Value:
    length = vector_norm(w, input, ord=p, dim=dim, keepdim=True)
    return w.op("Div", input, w.op("Max", length, w.scalar(eps, w.info(input).dtype)))


_NORMS: dict[float, tuple[str, ...]] = {
    1: ("ReduceL1",),
    2: ("ReduceL2",),
    math.inf: ("Abs", "ReduceMax"),
    -math.inf: ("Abs", "ReduceMin"),
}


def vector_norm(w: Writer, input: Operand, *, ord: float, dim: object, keepdim: bool) -> ir.Value:
    if ord not in _NORMS:
        raise CannotWrite(f"norms of order {ord}", "Use 1, 2 or infinity.")
    *first, reduce = _NORMS[ord]
    for kind in first:
        input = w.op(kind, input, like=input)
    return reduced(w, reduce, input, dim, keepdim)


def variance(root: bool) -> Callable[..., ir.Value]:
    """What writes the mean square of what differs from the mean; or its root."""

    def write(w: Writer, input: Operand, *, dim: Any, correction: float, keepdim: bool) -> ir.Value:
        info = w.info(input)
        dims = range(info.rank) if dim is None else (dim,) if isinstance(dim, int) else dim
        sizes = [info.shape[d] for d in dims]
        if not all(isinstance(size, int) for size in sizes):
            raise CannotWrite("a variance over sizes that are not fixed", "Fix them.", by_size=True)
        count = math.prod(int(size) for size in sizes)
        centered = w.op("Sub", input, reduced(w, "ReduceMean", input, dim, True), like=input)
        mean = reduced(w, "ReduceMean", w.op("Mul", centered, centered, like=input), dim, keepdim)
        factor = w.scalar(count / max(count - correction, 0.0), info.dtype)
        made = w.op("Mul", mean, factor)
        return w.op("Sqrt", made) if root else made

    return write


def _per_channel(w: Writer, values: Operand, rank: int) -> Operand:
    shape = (-1, *(1,) * (rank - 2))
    if isinstance(values, Tensor):
        return values.reshape(shape)
    return w.op("Reshape", values, w.vector(list(shape)))
