"""Sums and means of rows by ``torch.ops.quantized.embedding_bag_*_rowwise_offsets``, plain uint8.

A packed row holds its codes, and behind them what makes floats of them:

    8 bits   width bytes         scale, bias as float32      value = code * scale + bias
    4 bits   width / 2 bytes     scale, bias as float16      even places in the low bits

with ``bias = -zero_point * scale``. The kernels sum up whatever ``mode`` says, know no padding, and
read offsets of the dtype of the indices; means are divided here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from qfx.library import define
from qfx.torch_private import find

NAMES: Mapping[int, str] = {
    8: "quantized.embedding_bag_byte_rowwise_offsets",
    4: "quantized.embedding_bag_4bit_rowwise_offsets",
}
_KERNELS = {bits: find(f"torch.ops.{name}.default") for bits, name in NAMES.items()}


def pack_rows(codes: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Rows as the kernels read them.

    Args:
        codes: uint8 in 0..2**bits - 1, (rows, width).
        scale: float32, (rows,).
        zero_point: float32, (rows,).
        bits: 8 or 4.

    Returns:
        uint8, (rows, width + 8) or (rows, width / 2 + 4).
    """
    if bits == 4:
        codes = codes[:, ::2].bitwise_or(codes[:, 1::2] << 4)
        scale = scale.half()
    bias = -zero_point * scale.float()
    tail = torch.stack((scale, bias.to(scale.dtype)), dim=1).view(torch.uint8)
    return torch.cat((codes, tail), dim=1)


def _fake(x: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor | None, last: bool) -> Tensor:
    return rows.new_empty((offsets.shape[0] - last, rows.shape[1] - 8), dtype=torch.float32)


def _fake_4bit(
    x: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor | None, last: bool
) -> Tensor:
    width = 2 * (rows.shape[1] - 4)
    return rows.new_empty((offsets.shape[0] - last, width), dtype=torch.float32)


def _call(bits: int) -> Callable[..., Tensor]:
    def call(
        x: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor | None, last: bool
    ) -> Tensor:
        sums: Tensor = _KERNELS[bits](rows, x, offsets, False, 0, False, weights, None, last)
        return sums

    return call


_ARGUMENTS = "Tensor x, Tensor rows, Tensor offsets, Tensor? weights, bool last"
_compiled = {
    8: define(f"sum_of_8bit_rows({_ARGUMENTS})", _call(8), _fake),
    4: define(f"sum_of_4bit_rows({_ARGUMENTS})", _call(4), _fake_4bit),
}


def sum_of_rows(
    input: Tensor,
    rows: Tensor,
    offsets: Tensor | None = None,
    per_sample_weights: Tensor | None = None,
    *,
    bits: int,
    mode: str = "sum",
    include_last_offset: bool = False,
) -> Tensor:
    """As ``F.embedding_bag`` with mode "sum" or "mean", over rows of :func:`pack_rows`.

    Args:
        input: int32 or int64, (indices,) with ``offsets`` or (bags, length).
        rows: packed.
        offsets: where the bags start, (bags,), and end if ``include_last_offset``.
        per_sample_weights: float32, shaped as ``input``; with mode "sum".
        bits: of the codes, 8 or 4.
        mode: "sum" or "mean".
        include_last_offset: whether the last offset is the end of the last bag.

    Returns:
        float32, (bags, width).
    """
    kernel = _compiled[bits] if torch.compiler.is_compiling() else _EAGER[bits]
    return pooled(kernel, input, rows, offsets, per_sample_weights, mode, include_last_offset)


def pooled(
    kernel: Callable[..., Tensor],
    input: Tensor,
    rows: object,
    offsets: Tensor | None,
    per_sample_weights: Tensor | None,
    mode: str,
    include_last_offset: bool,
) -> Tensor:
    """Sums by ``kernel`` (indices, rows, starts, weights, include_last_offset), or their means."""
    if offsets is None:
        count, length = input.shape
        offsets = torch.arange(count, device=input.device) * length
        include_last_offset = False  # it speaks of offsets that are given
    flat = in_a_row(input)
    weights = None if per_sample_weights is None else in_a_row(per_sample_weights)
    starts = offsets.to(flat.dtype).contiguous()
    sums = kernel(flat, rows, starts, weights, include_last_offset)
    if mode == "sum":
        return sums
    ends = starts[1:] if include_last_offset else torch.cat((starts[1:], _length(flat, starts)))
    counts = ends - starts[: ends.shape[0]]
    return sums.div_(counts.clamp(min=1).unsqueeze(1))


def in_a_row(values: Tensor) -> Tensor:
    """``values`` (*) in one dim, one after the other in memory, which is how kernels read them."""
    return values.reshape(-1).contiguous()


def _length(flat: Tensor, like: Tensor) -> Tensor:
    return like.new_full((1,), flat.shape[0])


_EAGER = {bits: _call(bits) for bits in (8, 4)}
