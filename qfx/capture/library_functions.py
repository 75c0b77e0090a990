"""Library functions that plain fx can't trace, in a form that a graph can hold.

torchvision hides these behind ``torch.fx.wrap`` because they branch on sizes. A branch would tie
the graph to the sizes of the example; where that matters the function is written again without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from qfx.capture.proxy import ValueProxy
from qfx.torch_private import ASSERT, CHECK, DETECT_CAUSAL, DTYPE_OF_MASK, wrapped

_SWIN = "torchvision.models.swin_transformer"


def shifted_window_attention(
    input: Tensor,
    qkv_weight: Tensor,
    proj_weight: Tensor,
    relative_position_bias: Tensor,
    window_size: Sequence[int],
    num_heads: int,
    shift_size: Sequence[int],
    attention_dropout: float = 0.0,
    dropout: float = 0.0,
    qkv_bias: Tensor | None = None,
    proj_bias: Tensor | None = None,
    logit_scale: Tensor | None = None,
    training: bool = True,
) -> Tensor:
    """Attention in shifted windows (Liu et al. 2021, arXiv:2103.14030), as torchvision has it.

    Where a window covers the whole map the shift is zero; here that is a number of the graph, not
    a branch, and the mask of a shift by zero is zero. Arguments and result as in torchvision:
    ``input`` is (N, H, W, C), and so is the result.
    """
    batch, height, width, channels = input.shape
    rows, columns = window_size
    right, below = -width % columns, -height % rows
    x = F.pad(input, (0, 0, 0, right, 0, below))
    full_height, full_width = height + below, width + right
    shifts = (
        shift_size[0] * (full_height > rows),
        shift_size[1] * (full_width > columns),
    )
    is_shifted = sum(shift_size) > 0
    if is_shifted:
        x = torch.roll(x, shifts=(-shifts[0], -shifts[1]), dims=(1, 2))

    down, across = full_height // rows, full_width // columns
    x = x.reshape(batch, down, rows, across, columns, channels)
    x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, rows * columns, channels)
    if logit_scale is not None and qkv_bias is not None:
        query_bias, key_bias, value_bias = qkv_bias.chunk(3)
        qkv_bias = torch.cat([query_bias, torch.zeros_like(key_bias), value_bias])
    qkv = torch.unflatten(F.linear(x, qkv_weight, qkv_bias), -1, (3, num_heads, -1))
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    if logit_scale is not None:
        scores = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)
        scores = scores * torch.clamp(logit_scale, max=math.log(100.0)).exp()
    else:
        query = query * (channels // num_heads) ** -0.5
        scores = query.matmul(key.transpose(-2, -1))
    scores = scores + relative_position_bias
    if is_shifted:
        mask = _shift_mask(x, (full_height, full_width), (rows, columns), shifts)
        scores = torch.unflatten(scores, 0, (-1, down * across)) + mask.unsqueeze(1)
        scores = scores.flatten(0, 1)
    weights = F.dropout(F.softmax(scores, dim=-1), p=attention_dropout, training=training)
    x = weights.matmul(value).transpose(1, 2).flatten(-2)
    x = F.dropout(F.linear(x, proj_weight, proj_bias), p=dropout, training=training)

    x = x.reshape(batch, down, across, rows, columns, channels)
    x = x.permute(0, 1, 3, 2, 4, 5).reshape(batch, full_height, full_width, channels)
    if is_shifted:
        x = torch.roll(x, shifts=shifts, dims=(1, 2))
    return x[:, :height, :width, :].contiguous()


def _shift_mask(
    x: Tensor, size: tuple[int, int], window: tuple[int, int], shifts: tuple[int, int]
) -> Tensor:
    """(windows, tokens, tokens): -100 between tokens that the cyclic shift brought together."""
    wrapped = [
        (torch.arange(extent, device=x.device) >= extent - shift).to(x.dtype)
        for extent, shift in zip(size, shifts, strict=True)
    ]
    region = 2 * wrapped[0].unsqueeze(1) + wrapped[1].unsqueeze(0)
    (height, width), (rows, columns) = size, window
    region = region.reshape(height // rows, rows, width // columns, columns)
    region = region.permute(0, 2, 1, 3).reshape(-1, rows * columns)
    differs = region.unsqueeze(1) != region.unsqueeze(2)
    return differs.to(x.dtype) * -100.0


@contextmanager
def masks_seen_through() -> Iterator[None]:
    """Attention takes traced masks for what they stand for, and does not look into them.

    Whether a mask is causal is only a hint for faster kernels: the mask itself is applied in any
    case. The dtype of one mask is only compared with that of another, for a warning.
    """
    with wrapped({DETECT_CAUSAL: _hinted, DTYPE_OF_MASK: _known}):
        yield


def _hinted(detect: Callable[..., bool]) -> Callable[..., bool]:
    def detect_causal(mask: object, is_causal: bool | None = None, size: object = None) -> bool:
        if isinstance(mask, fx.Proxy):
            return bool(is_causal)
        return detect(mask, is_causal, size)

    return detect_causal


def _known(dtype_of: Callable[..., Any]) -> Callable[..., Any]:
    def dtype_of_mask(input: object) -> torch.dtype | None:
        known: Any = input.example if isinstance(input, ValueProxy) else input
        found: torch.dtype | None = dtype_of(known)
        return found

    return dtype_of_mask


@contextmanager
def conditions_decided() -> Iterator[None]:
    """Conditions of functions decide as an ``if`` of the model does.

    ``torch._check`` and its like are guarded by sizes, and asserted by the contents of tensors;
    ``torch.cond`` goes the way of the example, so that what it decides by is seen.
    """
    with wrapped({CHECK: _checked, "torch.cond": _branching}):
        yield


def _checked(check: Callable[..., None]) -> Callable[..., None]:
    def check_with(error_type: type[Exception], cond: object, message: object = None) -> None:
        if type(cond) is not ValueProxy:
            check(error_type, cond, message)
        elif cond.from_data and cond.example is True:
            ASSERT(cond, "a check of the model fails")
        else:
            check(error_type, bool(cond), message)

    return check_with


def _branching(cond: Callable[..., Any]) -> Callable[..., Any]:
    def branching(
        pred: Any,
        true_fn: Callable[..., Any],
        false_fn: Callable[..., Any],
        operands: Sequence[object] = (),
    ) -> Any:
        if type(pred) is not ValueProxy:
            return cond(pred, true_fn, false_fn, operands)
        return (true_fn if pred else false_fn)(*operands)

    return branching


REPLACEMENTS: dict[str, Callable[..., Any]] = {
    f"{_SWIN}.shifted_window_attention": shifted_window_attention,
}
"""What is traced in place of a function, by its qualified name."""

FACTORIES = (
    torch.zeros,
    torch.ones,
    torch.full,
    torch.empty,
    torch.arange,
    torch.linspace,
    torch.eye,
    torch.rand,
    torch.randn,
    torch.randint,
    torch.tensor,
    torch.as_tensor,
    torch.finfo,
    torch.roll,
    torch.broadcast_shapes,
)
"""Functions of numbers, most of which make tensors; they do not dispatch on proxies for these."""

METHODS = (
    *("expand", "repeat", "tile", "view", "reshape", "permute", "unflatten", "broadcast_to"),
    *("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"),
    *("roll", "split", "narrow", "select", "triu", "tril", "diagonal", "flip"),
    *("sum", "mean", "std", "var", "amax", "amin"),
)
"""Methods of tensors that read the numbers they are given before, or instead of, dispatching."""

TRANSPARENT = frozenset({f"{_SWIN}._patch_merging_pad", f"{_SWIN}._get_relative_position_bias"})
"""Wrapped functions that trace as they are."""
