"""Normalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

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


def _per_channel(w: Writer, values: Operand, rank: int) -> Operand:
    shape = (-1, *(1,) * (rank - 2))
    if isinstance(values, Tensor):
        return values.reshape(shape)
    return w.op("Reshape", values, w.vector(list(shape)))
