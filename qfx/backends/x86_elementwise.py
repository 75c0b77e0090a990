"""Elementwise operations and reductions on plain uint8 codes, where oneDNN has no (correct) kernel.

Three ways, whichever measured fastest (AVX512, 2 threads, 200k elements):

* A function of one operand is a table (:func:`lookup`): exact for any function, 80 us whatever it
  costs; float arithmetic takes 80 (hardswish) to 330 us (tanh). Looking up one byte at a time takes
  160 us, so the table maps two bytes at once and has 65536 entries.
* Functions of two operands are float32 multiply-adds that end in the rounding of
  :func:`~qfx.backends.x86_kernels.codes_of`: 75 us, within one step of exact arithmetic.
* Means are exact integer sums.

With scales ``s``, zero points ``z`` and the result's ``s'``, ``z'``:

    add:  q = round((a - za) sa/s' + (b - zb) sb/s' + z')
    mul:  q = round((a - za) (b - zb) sa sb/s' + z')
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from qfx.backends.x86_kernels import MAGIC, codes_of, round_to_codes
from qfx.quant import ops


def pack_lookup(
    function: Callable[[Tensor], Tensor],
    x_scale: float,
    x_zero_point: int,
    scale: float,
    zero_point: int,
    quant_max: int = 255,
) -> Tensor:
    """The table of ``quantize(function(dequantize(x)))`` for :func:`lookup`.

    Args:
        function: float -> float, elementwise.
        x_scale: scale of the input.
        x_zero_point: zero point of the input.
        scale: scale of the result.
        zero_point: zero point of the result.
        quant_max: upper bound of the result's codes.

    Returns:
        int16 (65536,): for each pair of bytes, the pair of results.
    """
    values = ops.dequantize(torch.arange(256), x_scale, x_zero_point)
    codes = ops.quantize(function(values), scale, zero_point, quant_max=quant_max)
    low, high = codes.repeat(256), codes.repeat_interleave(256)
    return torch.stack((low, high), 1).reshape(-1).view(torch.int16)


def lookup(input: Tensor, table: Tensor) -> Tensor:
    """Map uint8 codes through a table of :func:`pack_lookup`; exact.

    Returns:
        uint8, in the shape and memory format of ``input``.
    """
    if torch.compiler.is_compiling():
        return table[input.int()].to(torch.uint8)
    if input.is_contiguous():
        return _lookup_flat(input.view(-1), table).view(input.shape)
    strides = input.stride()
    order = sorted(range(input.dim()), key=lambda d: (-strides[d], d))
    dense = input.permute(order).contiguous()  # no copy for any dense memory format
    mapped = _lookup_flat(dense.view(-1), table).view(dense.shape)
    return mapped.permute([order.index(d) for d in range(input.dim())])


def _lookup_flat(codes: Tensor, table: Tensor) -> Tensor:
    if codes.numel() % 2 or codes.storage_offset() % 2:
        return table.index_select(0, codes.int()).to(torch.uint8)
    pairs = codes.view(torch.uint16).to(torch.int32)
    return table.index_select(0, pairs).view(torch.uint8)


def requantize(
    input: Tensor,
    x_scale: float,
    x_zero_point: int,
    scale: float,
    zero_point: int,
    quant_max: int = 255,
) -> Tensor:
    """uint8 codes for other qparams, within one step."""
    factor = x_scale / scale
    return round_to_codes(input.float(), factor, zero_point - x_zero_point * factor, quant_max)


def add(
    input: Tensor,
    x_scale: float,
    x_zero_point: int,
    other: Tensor,
    other_scale: float,
    other_zero_point: int,
    scale: float,
    zero_point: int,
    quant_max: int = 255,
    relu: bool = False,
) -> Tensor:
    """Sum of two tensors of uint8 codes, broadcast, then relu if asked; within one step.

    Returns:
        uint8; channels_last if both operands are.
    """
    a, b = x_scale / scale, other_scale / scale
    offset = zero_point - x_zero_point * a - other_zero_point * b
    partial = input.float().mul_(a).add_(offset)
    return _finish(torch.add(partial, other, alpha=b), zero_point, quant_max, relu)


def mul(
    input: Tensor,
    x_scale: float,
    x_zero_point: int,
    other: Tensor,
    other_scale: float,
    other_zero_point: int,
    scale: float,
    zero_point: int,
    quant_max: int = 255,
    relu: bool = False,
) -> Tensor:
    """Product of two tensors of uint8 codes, broadcast, then relu if asked; within one step.

    ``other`` may be float32 (the gate of a squeeze-and-excitation block, which is small): its scale
    is then 1 and its zero point 0.

    Returns:
        uint8; channels_last if the larger operand is.
    """
    step = x_scale * other_scale / scale
    factor = torch.rsub(other.float(), -other_zero_point * step, alpha=-step)
    product = torch.mul(input.float().sub_(x_zero_point), factor)
    return _finish(product.add_(zero_point), zero_point, quant_max, relu)


def _finish(steps: Tensor, zero_point: int, quant_max: int, relu: bool) -> Tensor:
    low = max(0, zero_point) if relu else 0
    if torch.compiler.is_compiling():
        return torch.round(steps).clamp(low, quant_max).to(torch.uint8)
    return codes_of(steps.add_(MAGIC), quant_max, low)


def mean(
    input: Tensor, x_scale: float, x_zero_point: int, dim: Sequence[int], keepdim: bool = False
) -> Tensor:
    """Mean of uint8 codes as float32: ``(sum / n - zp) * scale``, the sum exact.

    Args:
        input: uint8.
        x_scale: scale of the input.
        x_zero_point: zero point of the input.
        dim: dims to average over, at most 2**23 elements together.
        keepdim: whether they stay, as size 1.
    """
    dims = list(dim)
    count = prod([input.shape[d] for d in dims])
    total = input.sum(dims, keepdim=keepdim, dtype=torch.int32)
    return total.sub_(count * x_zero_point).float().mul_(x_scale / count)
