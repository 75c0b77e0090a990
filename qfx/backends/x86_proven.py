"""Convolutions that prove themselves at the geometry of the site, before they are used.

oneDNN's AMX kernels take the taps of a row together where that fills a tile's row of 64 bytes
better, and get some of these wrong by hundreds of steps (torch 2.13; 27,000 random geometries, 1 to
3 dims):

* 4, 8, ... 28 input channels a group, and a multiple of 64 for channels times taps in a row, from
  128 on: ``conv1d(16, 16, 8)``, grouped or not.
* Groups of fewer than 64 input channels and more than 16 output channels, from 33 on nearly all.

Both only where the last dim has several taps that lie side by side, and most of them at some
sizes of the input only. So each geometry of that kind is tried once per process, on codes in a row
of co-prime steps, at the size of the example and at sizes that showed all but 2 of 700 known ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod

import torch
import torch.nn.functional as F
from torch import fx

from qfx.backends import x86_kernels as kernels
from qfx.backends import x86_transpose as transpose
from qfx.backends.quantized_room import per_dim
from qfx.backends.room import outer_padding
from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import bound

Sizes = Sequence[int]
_EXTENTS = {1: (64, 100, 300), 2: (14, 20, 28), 3: (4, 10)}
_ROW = 64  # bytes


def is_suspect(weight: Sizes, groups: int) -> bool:
    """Whether a weight (out, in / groups, *kernel) is of a kind that may go wrong.

    Depthwise kernels are others.
    """
    channels, taps = weight[1], weight[-1]
    if taps == 1 or channels >= _ROW:
        return False
    grouped = groups > 1 and (channels > 1 or weight[0] > groups)
    return grouped or channels * taps > _ROW


def refuse_wrong(
    weight: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int, size: Sizes
) -> Mismatch | None:
    """Refuse a convolution that is wrong at one of some input sizes, ``size`` among them."""
    if not is_suspect(weight, groups):
        return None
    dims = len(weight) - 2
    inner, _ = outer_padding(weight[2:], padding, dilation)
    geometry = (tuple(stride), tuple(inner), tuple(dilation), groups)
    for spatial in (tuple(size), *((extent,) * dims for extent in _EXTENTS[dims])):
        if not _off(tuple(weight), *geometry, spatial) <= 1e-3:  # NaN neither
            return Mismatch(
                "onednn.qconv{0}d is wrong here for kernel {1}, {2} to {3} channels and groups={4}",
                dims, tuple(weight[2:]), weight[1] * groups, weight[0], groups,
            )  # fmt: skip
    return None


def right_here(node: fx.Node) -> Mismatch | None:
    """Refuse a convolution that the kernel gets wrong."""
    weight, size = _shapes(node)
    if not weight:
        return None
    stride, padding, dilation = (
        per_dim(bound(node)[n], len(size)) for n in ("stride", "padding", "dilation")
    )
    return refuse_wrong(weight, stride, padding, dilation, bound(node)["groups"], size)


def right_phases(node: fx.Node) -> Mismatch | None:
    """Refuse a transposed convolution if the kernel gets that of its phases wrong."""
    weight, size = _shapes(node)
    if not weight:
        return None
    groups = bound(node)["groups"]
    stride, padding, extra = (
        per_dim(bound(node)[n], len(size)) for n in ("stride", "padding", "output_padding")
    )
    taps = transpose.phase_taps(weight[2:], stride, padding, extra)
    phases = (weight[1] * groups * prod(stride), weight[0] // groups, *taps)
    ones = [1] * len(size)
    return refuse_wrong(phases, ones, [j - 1 for j in taps], ones, groups, size)


def _shapes(node: fx.Node) -> tuple[Sizes, Sizes]:
    """Of the weight, and of the input without batch and channels."""
    infos = [meta.tensor_info(v) for v in node.all_input_nodes[:2]]
    if len(infos) < 2 or infos[0] is None or infos[1] is None:
        return (), ()
    weight = tuple(infos[1].shape)
    return weight, tuple(infos[0].shape[2 - len(weight) :])


@cache
def _off(
    weight: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int, spatial: Sizes
) -> float:
    """Largest error of the kernel, as a fraction of its largest result."""
    dims, zero_point = len(spatial), 3
    reach = [d * (k - 1) + 1 for k, d in zip(weight[2:], dilation, strict=True)]
    spatial = tuple(max(n, r + s) for n, r, s in zip(spatial, reach, stride, strict=True))
    shape = (1, weight[1] * groups, *spatial)
    with torch.inference_mode(), torch.device("cpu"):
        codes = (torch.arange(prod(shape)) * 37 % 128).to(torch.uint8).reshape(shape)
        values = (torch.arange(prod(weight)) * 53 % 255 - 127).to(torch.int8).reshape(weight)
        geometry = (list(stride), list(padding), list(dilation), groups)
        scales, zeros = torch.full(weight[:1], 1.0), torch.zeros(weight[0], dtype=torch.int8)
        packed = kernels.pack_conv(values, scales, 1.0, zero_point, *geometry, shape)
        kernel = getattr(torch.ops.onednn, f"qconv{dims}d_pointwise").default
        head = (codes, 1.0, zero_point, packed, scales, zeros, None)
        got = kernel(*head, *geometry, 1.0, 0, torch.float32, "none", [], "")
        exact = (F.conv1d, F.conv2d, F.conv3d)[dims - 1](
            codes.double() - zero_point, values.double(), None, *geometry
        )
    return float((got - exact).abs().max() / exact.abs().max().clamp(min=1))
