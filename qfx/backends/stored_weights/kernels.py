"""Weights that are kept in integers or halves and made float where they are read, on plain tensors.

    linear     y = post((x (q - zp)^T) * scale + bias)              a scale per output channel
               y = post(x ((q - zp) * scale)^T + bias)              a scale per group of a channel
    embedding  y[i] = (q[i] - zp[i]) * scale[i]                     only the rows that are read

A scale per channel is multiplied to the result, which is smaller than the weight. Large weights are
widened in blocks that stay in the cache: at 1x4096x4096 that is five times as fast as one float
copy of the weight (``python -m benchmarks.weights``). No float copy outlives the call.

4-bit codes come two a byte (:mod:`qfx.semantics.packing`); signed ones are unpacked times 16, a
power of two that the scale takes back without rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx.graph.meta import TensorInfo
from qfx.graph.shape_arithmetic import Told, fit, like
from qfx.graph.shape_rules import after, yields
from qfx.semantics import packing
from qfx.semantics.post import Post, apply_post
from qfx.semantics.rounding import trailing

BLOCK = 1 << 18
"""Codes that are widened at once: a megabyte of floats."""


def _width(codes: Any, *, packed: object = None, columns: int | None = None, **_: object) -> int:
    """How many columns a weight has whose codes are stored like this."""
    stored: int = codes.shape[1]
    return columns or (stored if packed is None else 2 * stored)


def _linear(input: Any, codes: Any, *_: object, post: Post = (), **stored: Any) -> Told:
    if not fit(input) or input.shape[-1] != _width(codes, **stored):
        return None
    return after(like(input, (*input.shape[:-1], codes.shape[0])), post)


def _rows(input: Any, codes: Any, *_: object, **stored: Any) -> Told:
    indices = input.dtype in (torch.int64, torch.int32)
    shape = *input.shape, _width(codes, **stored)
    return like(TensorInfo(shape, torch.float32), shape) if indices else None


def _bags(input: Any, codes: Any, *_: object, **stored: Any) -> Told:
    bags = TensorInfo(input.shape[:1], input.dtype)
    return _rows(bags, codes, **stored) if len(input.shape) == 2 else None


@yields(_linear)
def linear(
    input: Tensor,
    codes: Tensor,
    scale: Tensor | float,
    zero_point: Tensor | int | None,
    bias: Tensor | None = None,
    *,
    group_size: int | None = None,
    packed: torch.dtype | None = None,
    columns: int | None = None,
    post: Post = (),
) -> Tensor:
    """A linear layer over a weight kept in integers.

    Args:
        input: float32, (..., in).
        codes: int8 or uint8, (out, in); or (out, in / 2), rounded up, where ``packed``.
        scale: a number, (out,), or (out, groups).
        zero_point: shaped as ``scale``; None for zero everywhere.
        bias: float32, (out,).
        group_size: values of a channel that share a scale.
        packed: dtype of the codes that ``codes`` holds two a byte; None where it holds them plain.
        columns: how many codes a packed row has, where that is odd.
        post: post-ops, see :mod:`qfx.semantics.post`.

    Returns:
        float32, (..., out).
    """
    factor = _factor(packed)
    late = group_size is None
    parts = [
        F.linear(input, _weight(c, None if late else s, z, group_size, packed, columns))
        for c, s, z in _blocks(codes, scale, zero_point)
    ]
    y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
    return apply_post(_finished(y, scale if late else 1.0, factor, bias), post)


@yields(_linear)
def linear_half(input: Tensor, halves: Tensor, bias: Tensor | None, *, post: Post = ()) -> Tensor:
    """A linear layer over a weight (out, in) kept in float16, on float32 input (..., in)."""
    parts = [F.linear(input, h.float()) for h, _, _ in _blocks(halves, 1.0, None)]
    y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
    return apply_post(y if bias is None else y.add_(bias), post)


@yields(_rows)
def embedding(
    input: Tensor,
    codes: Tensor,
    scale: Tensor | None,
    zero_point: Tensor | None = None,
    *,
    group_size: int | None = None,
    packed: torch.dtype | None = None,
    columns: int | None = None,
) -> Tensor:
    """The rows (*, width) that integers (*) name, of a weight kept as :func:`linear` takes it.

    ``scale`` is (rows,) or (rows, groups); None for a weight in float16.
    """
    flat = input.reshape(-1)
    picked = None if scale is None else scale.index_select(0, flat)
    if picked is not None and packed is not None:
        picked = picked.mul_(_factor(packed))
    zero = None if zero_point is None else zero_point.index_select(0, flat)
    rows = _weight(codes.index_select(0, flat), picked, zero, group_size, packed, columns)
    return rows.view(*input.shape, rows.shape[1])


@yields(_bags)
def embedding_bag(
    input: Tensor,
    codes: Tensor,
    scale: Tensor | None,
    zero_point: Tensor | None = None,
    offsets: Tensor | None = None,
    per_sample_weights: Tensor | None = None,
    *,
    mode: str = "mean",
    include_last_offset: bool = False,
    padding_idx: int | None = None,
    group_size: int | None = None,
    packed: torch.dtype | None = None,
    columns: int | None = None,
) -> Tensor:
    """As ``F.embedding_bag`` over a weight kept as :func:`embedding` takes it.

    The rows that are read become a small float weight of their own, and every index the place of
    its row there; padding is one more row.
    """
    flat = input.reshape(-1)
    kept = {"group_size": group_size, "packed": packed, "columns": columns}
    rows = embedding(flat, codes, scale, zero_point, **kept)  # type: ignore[arg-type]
    places = torch.arange(flat.numel(), dtype=input.dtype, device=input.device)
    padding = None
    if padding_idx is not None:
        padding = flat.numel()
        rows = F.pad(rows, (0, 0, 0, 1))
        places = places.masked_fill(flat == padding_idx % codes.shape[0], padding)
    return F.embedding_bag(
        places.view(input.shape),
        rows,
        offsets,
        mode=mode,
        per_sample_weights=per_sample_weights,
        include_last_offset=include_last_offset,
        padding_idx=padding,
    )


def _blocks(
    codes: Tensor, scale: Tensor | float, zero_point: Tensor | int | None
) -> Iterator[tuple[Tensor, Tensor | float, Tensor | int | None]]:
    """Codes, scales and zero points of so many output channels that they stay in the cache."""
    rows = max(1, BLOCK // max(1, codes.shape[1]))
    if codes.shape[0] <= rows or torch.compiler.is_compiling():  # a compiler makes its own loops
        yield codes, scale, zero_point
        return
    for start in range(0, codes.shape[0], rows):
        at = slice(start, start + rows)
        yield (
            codes[at],
            scale[at] if isinstance(scale, Tensor) else scale,
            zero_point[at] if isinstance(zero_point, Tensor) else zero_point,
        )


def _weight(
    codes: Tensor,
    scale: Tensor | float | None,
    zero_point: Tensor | int | None,
    group_size: int | None,
    packed: torch.dtype | None,
    columns: int | None,
) -> Tensor:
    """Float rows of codes: times 16 where :func:`_factor` says so, times ``scale`` if given."""
    if packed is not None:
        signed = packed == torch.int8
        unpack = packing.shifted if signed else partial(packing.unpack, dtype=packed)
        codes = unpack(codes, columns=columns)
    rows, width = codes.shape
    values = codes.float()
    if group_size is not None:
        values = values.view(rows, width // group_size, group_size)
    if zero_point is not None:
        values = values.sub_(trailing(zero_point), alpha=round(1 / _factor(packed)))
    if scale is not None:
        values = values.mul_(trailing(scale))
    return values.view(rows, width)


def _factor(packed: torch.dtype | None) -> float:
    """What the values of :func:`_weight` are to be multiplied with."""
    return 1 / 16 if packed == torch.int8 else 1.0


def _finished(y: Tensor, scale: Tensor | float, factor: float, bias: Tensor | None) -> Tensor:
    """``y * scale * factor + bias`` in one pass; ``y`` is overwritten."""
    if not isinstance(scale, Tensor):
        scaled = scale * factor
        return y.mul_(scaled) if bias is None else torch.add(bias, y, alpha=scaled)
    if bias is None:
        return y.mul_(scale if factor == 1 else scale * factor)
    return torch.addcmul(bias, y, scale, value=factor)
