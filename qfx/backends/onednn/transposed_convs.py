"""Transposed convolution as a convolution, exactly.

With stride s, output position ``o + p = i*s + t`` receives ``x[i] * w[t]``. Positions of equal
phase ``r = (o + p) mod s`` see only the taps ``t = r + j*s``, so each phase is an ordinary
convolution with J = ceil(k / s) taps, reversed. The s phases (s1*s2 in 2d) become output channels
of one convolution of the same number of multiply-accumulates (Shi et al. 2016, arXiv:1609.07009),
which are then woven together and cropped:

    y = crop(weave(conv(x, W', padding=J-1)))      W'[o*s + r, i, J-1-j] = W[i, o, r + j*s]

Dilation 1 only. Every post-op that acts on single elements may stay on the convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor


def phase_taps(
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
) -> list[int]:
    """J per dim: the taps each phase needs, and enough to reach the output padding."""
    sizes = zip(kernel, stride, padding, output_padding, strict=True)
    return [-(-(k + max(0, extra - p)) // s) for k, s, p, extra in sizes]


def phase_weight(weight: Tensor, stride: Sequence[int], taps: Sequence[int], groups: int) -> Tensor:
    """The weight of the convolution whose output channels are the phases.

    Args:
        weight: (in, out / groups, *kernel), as transposed convolutions have it.
        stride: one number per spatial dim.
        taps: from :func:`phase_taps`; the convolution's padding is ``taps - 1``, its stride 1.
        groups: number of groups.

    Returns:
        (out * prod(stride), in / groups, *taps), zeros where a phase lacks a tap.
    """
    inputs, outputs, *kernel = weight.shape
    dims = len(kernel)
    missing = [j * s - k for j, s, k in zip(taps, stride, kernel, strict=True)]
    weight = F.pad(weight, [side for m in reversed(missing) for side in (0, m)])
    grid = [size for pair in zip(taps, stride, strict=True) for size in pair]
    split = weight.reshape(groups, inputs // groups, outputs, *grid)
    tap_dims, phase_dims = range(3, 3 + 2 * dims, 2), range(4, 4 + 2 * dims, 2)
    ordered = split.permute(0, 2, *phase_dims, 1, *tap_dims)
    reversed_taps = ordered.flip(tuple(range(-dims, 0)))
    return reversed_taps.reshape(groups * outputs * prod(stride), inputs // groups, *taps)


def per_phase(values: Tensor, stride: Sequence[int]) -> Tensor:
    """Per-channel values (out,), e.g. weight scales or biases, for the phases' channels."""
    return values.repeat_interleave(prod(stride)) if values.numel() > 1 else values


def trim(
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    taps: Sequence[int],
) -> list[int]:
    """How much :func:`weave` cuts from the end of each dim."""
    sizes = zip(taps, stride, padding, kernel, output_padding, strict=True)
    return [j * s + p - k - extra for j, s, p, k, extra in sizes]


def weave(input: Tensor, stride: Sequence[int], start: Sequence[int], end: Sequence[int]) -> Tensor:
    """Interleave the phases and crop.

    Args:
        input: (batch, out * prod(stride), *spatial), any dtype.
        stride: one number per spatial dim.
        start: what to cut from the beginning of each dim: the transposed convolution's padding.
        end: what to cut from its end, from :func:`trim`.
    """
    woven = _weave(input, stride)
    for d, (low, high) in enumerate(zip(start, end, strict=True), start=2):
        woven = woven.narrow(d, low, woven.shape[d] - low - high)
    return woven


def _weave(input: Tensor, stride: Sequence[int]) -> Tensor:
    if prod(stride) == 1:
        return input
    if len(stride) == 2 and stride[0] == stride[1]:  # keeps channels_last, 3 times faster
        return F.pixel_shuffle(input, stride[0])
    dims, spatial = len(stride), input.shape[2:]
    channels = input.shape[1] // prod(stride)
    split = input.reshape(input.shape[0], channels, *stride, *spatial)
    order = [d for i in range(dims) for d in (2 + dims + i, 2 + i)]
    sizes = [n * s for n, s in zip(spatial, stride, strict=True)]
    return split.permute(0, 1, *order).reshape(input.shape[0], channels, *sizes)


def weave_groups(parts: Sequence[Tensor], groups: int) -> Tensor:
    """Put together results that hold some channels of every group each.

    Args:
        parts: (batch, groups * channels of the part, *spatial), any dtype.
        groups: how many groups there are.

    Returns:
        (batch, groups * all channels, *spatial) in the memory format of channels_last.
    """
    last = [part.movedim(1, -1) for part in parts]
    grouped = [part.reshape(*part.shape[:-1], groups, -1) for part in last]
    return torch.cat(grouped, -1).flatten(-2).movedim(-1, 1)
