"""Calls of oneDNN's convolutions: all that picks a kernel, and how it is packed and written.

What is proven (:mod:`qfx.backends.onednn.verified_convs`) and what is emitted
(:mod:`qfx.backends.onednn.convs`) are written by the same functions from the same
:class:`ConvCall`, be their operands values or nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qfx.backends.onednn import calls, packing
from qfx.backends.onednn.arguments import (
    NO_POST_OP,
    Conv,
    ConvAdd,
    Geometry,
    KernelOperand,
    OnednnPostOp,
    Operands,
    OutputFormat,
    Residual,
)
from qfx.backends.onednn.overhang import least_sizes

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class ConvCall:
    """A call of ``onednn.qconv{n}d_pointwise`` but for its operands' values.

    Attributes:
        weight: shape as packed, (out, in / groups, *kernel).
        stride, padding, dilation: a number per dim.
        groups: number of groups.
        outer: what to pad the input with before, as in ``F.pad``.
    """

    weight: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int
    outer: Sizes = ()

    @property
    def dims(self) -> int:
        return len(self.stride)

    @property
    def geometry(self) -> Geometry:
        """Stride, padding, dilation and groups, as kernels take them."""
        return Geometry(list(self.stride), list(self.padding), list(self.dilation), self.groups)

    def result(self, x: Sequence[int]) -> Sizes:
        """The shape of the result, given that of the input as padded before."""
        kernel, sides = self.weight[2:], zip(self.padding, self.stride, self.dilation, strict=True)
        spatial = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, (p, s, d) in zip(x[2:], kernel, sides, strict=True)
        )
        return x[0], self.weight[0], *spatial

    @property
    def least(self) -> list[int]:
        """From which input size on it is right: :mod:`~qfx.backends.onednn.overhang`."""
        return least_sizes(self.weight[2:], self.stride, self.padding, self.dilation)


@dataclass(frozen=True)
class Ending:
    """What else of a call picks its kernel.

    Attributes:
        shifted: whether the input has a zero point.
        dtype: of the result.
        post: as kernels take it.
        adds: whether the result is added to a residual.
    """

    shifted: bool
    dtype: torch.dtype
    post: OnednnPostOp = NO_POST_OP
    adds: bool = False


def pack(call: ConvCall, codes: Tensor, scales: Tensor, x: tuple[float, int], shape: Sizes) -> Any:
    """The packed weight of a call, for an input of ``shape`` and its scale and zero point."""
    x_scale, x_zero_point = x
    return packing.pack_conv(codes, scales, x_scale, x_zero_point, *call.geometry, shape)


def write(
    call: ConvCall,
    read: Operands,
    bias: KernelOperand,
    result: OutputFormat,
    post: OnednnPostOp,
    *,
    known: bool,
) -> tuple[Any, tuple[Any, ...]]:
    """The kernel and its arguments, be they nodes or values.

    Args:
        call: which convolution.
        read: input and packed weight.
        bias: float, or None.
        result: what is handed out.
        post: what is computed on the result.
        known: whether the qparams of the input are numbers.
    """  # fmt: skip
    args = Conv.of(read, bias, call.geometry, result, post)
    # onednn's conv1d gives empty batches four dims; PyTorch can't tell what its conv3d yields
    if known and not call.least and call.dims == 2:
        return getattr(torch.ops.onednn, f"qconv{call.dims}d_pointwise").default, args
    return calls.conv(call.dims), (*args, call.least)


def write_sum(
    call: ConvCall, read: Operands, residual: Residual, bias: KernelOperand, result: OutputFormat,
    relu: str | None,
) -> tuple[Any, tuple[Any, ...]]:  # fmt: skip
    """As :func:`write`, for a call that adds to a residual."""
    args = ConvAdd.of(read, residual, bias, call.geometry, result, OnednnPostOp(relu))
    return calls.conv2d_add, (*args, call.least)
