"""Max pooling of integer codes by plain operations, for a PyTorch without a kernel for it.

    y[i] = max over taps t of x[i * stride + t * dilation - padding]

along one dim after the other, since a maximum of maxima is the maximum of all. Padding never wins:
it is the lowest code.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor


def max_pool(
    input: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool = False,
) -> Tensor:
    """Max pooling over the last dims of ``input``, exact.

    Args:
        input: integers, (batch, channels, *spatial).
        kernel_size: a number per spatial dim, like all that follow.
        stride: as in ``F.max_pool2d``.
        padding: likewise.
        dilation: likewise.
        ceil_mode: whether windows may start in the padding.

    Returns:
        Integers of the same dtype, (batch, channels, *spatial).
    """
    first = input.dim() - len(kernel_size)
    geometry = zip(kernel_size, stride, padding, dilation, strict=True)
    for dim, each in enumerate(geometry, start=first):
        input = _along(input, dim, *each, ceil_mode)
    return input


def _along(
    x: Tensor, dim: int, taps: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> Tensor:
    size, reach = x.shape[dim], dilation * (taps - 1) + 1
    room = size + 2 * padding - reach
    count = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1  # that window would lie in the padding altogether
    span = (count - 1) * stride + 1
    after = max(0, span + reach - 1 - size - padding)
    lowest = torch.iinfo(x.dtype).min
    x = F.pad(x, [0, 0] * (x.dim() - 1 - dim) + [padding, after], value=lowest)
    shifts = (x.narrow(dim, tap * dilation, span) for tap in range(taps))
    every = (slice(None),) * dim + (slice(None, None, stride),)
    return reduce(torch.maximum, (shift[every] for shift in shifts))
