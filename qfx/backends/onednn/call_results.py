"""What oneDNN's calls hand out, without values: shapes, dtypes and memory formats."""

from __future__ import annotations

import torch
from torch import Tensor

from qfx.backends.onednn.arguments import Conv, ConvAdd, Linear, LinearAdd
from qfx.backends.onednn.as_convolutions import widths
from qfx.backends.onednn.kernels import channels_last


def conv2d_add_result(*args: object) -> Tensor:
    """What a convolution that adds hands out: one of input and residual may have batch 1."""
    *taken, _ = args
    given = ConvAdd(*taken)
    own, other = conv_shape(given), given.other
    (batch,) = torch.broadcast_shapes(own[:1], other.shape[:1])  # type: ignore[no-untyped-call]
    result: Tensor = other.new_empty((batch, *own[1:]))
    return result.contiguous(memory_format=torch.channels_last)


def linear_add_result(*args: object) -> Tensor:
    """What a linear layer that adds hands out."""
    given = LinearAdd(*args)
    x, other = given.x, given.other
    lead = torch.broadcast_shapes(x.shape[:-1], other.shape[:-1])  # type: ignore[no-untyped-call]
    result: Tensor = other.new_empty((*lead, given.weight.shape[-1]), dtype=given.dtype)
    return result


def linear_result(*args: object) -> Tensor:
    """What a linear layer hands out."""
    given = Linear(*args)
    shape = (*given.x.shape[:-1], widths(given.weight)[1])
    result: Tensor = given.x.new_empty(shape, dtype=given.dtype)
    return result


def conv_result(*args: object) -> Tensor:
    """What ``qconv*_pointwise`` hands out; weights of ``conv1d`` have 4 dims."""
    *taken, _ = args
    given = Conv(*taken)
    made: Tensor = given.x.new_empty(conv_shape(given), dtype=given.dtype)
    return as_written(made)


def conv_shape(given: Conv | ConvAdd) -> tuple[int, ...]:
    """The shape of what a convolution computes, before anything is added."""
    kernel = given.weight.shape[-len(given.stride) :]  # 1-d ones are packed as 2-d
    sides = zip(given.stride, given.padding, given.dilation, strict=True)
    spatial = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, (s, p, d) in zip(given.x.shape[2:], kernel, sides, strict=True)
    ]
    return (given.x.shape[0], given.weight_scale.numel(), *spatial)


def as_written(y: Tensor) -> Tensor:
    """``y`` in the memory format of the kernels: ``conv1d`` is a ``conv2d`` on one row."""
    return channels_last(y.unsqueeze(2)).squeeze(2) if y.dim() == 3 else channels_last(y)
