"""Grouped convolutions, tried at the geometry of the site.

oneDNN's AMX kernel is wrong for some with more than 16 output channels a group and more than one
tap, by hundreds of steps (torch 2.13: 1 to 3 input channels a group, or 16 with 5x5 taps). Which
are, depends on the geometry and on the size of the input, larger ones being wrong more often; so
each is tried once per process on inputs of some sizes.
"""

from __future__ import annotations

from functools import cache
from math import prod

import torch
import torch.nn.functional as F
from torch import fx

from qfx.backends import x86_kernels as kernels
from qfx.backends import x86_transpose as transpose
from qfx.backends.quantized_room import per_dim
from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import bound

Sizes = tuple[int, ...]
_EXTENTS = {1: (64, 512), 2: (8, 28), 3: (4, 10)}
_BLOCK = 16  # output channels that kernels compute at once


def is_suspect(weight: Sizes, groups: int) -> bool:
    """Whether a weight (out, in / groups, *kernel) is of the kind that goes wrong."""
    return groups > 1 and weight[0] // groups > _BLOCK and prod(weight[2:]) > 1


def refuse_wrong(
    weight: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int, size: Sizes
) -> Mismatch | None:
    """Refuse a convolution that is wrong at one of some input sizes, ``size`` among them."""
    if not is_suspect(weight, groups):
        return None
    dims = len(weight) - 2
    for spatial in (size, *((extent,) * dims for extent in _EXTENTS[dims])):
        if _off(weight, stride, padding, dilation, groups, spatial) > 1e-3:
            return Mismatch(
                "onednn.qconv{0}d is wrong here for {1} groups of {2} to {3} channels",
                dims, groups, weight[1], weight[0] // groups,
            )  # fmt: skip
    return None


def right_groups(node: fx.Node) -> Mismatch | None:
    """Refuse a convolution whose groups the kernel gets wrong."""
    weight, size = _shapes(node)
    if not weight or not is_suspect(weight, bound(node)["groups"]):
        return None
    stride, padding, dilation = (
        tuple(per_dim(bound(node)[n], len(size))) for n in ("stride", "padding", "dilation")
    )
    return refuse_wrong(weight, stride, padding, dilation, bound(node)["groups"], size)


def right_phases(node: fx.Node) -> Mismatch | None:
    """Refuse a transposed convolution if that of its phases has groups that go wrong."""
    weight, size = _shapes(node)
    groups = bound(node)["groups"]
    if not weight or groups == 1:
        return None
    stride, padding, extra = (
        per_dim(bound(node)[n], len(size)) for n in ("stride", "padding", "output_padding")
    )
    taps = transpose.phase_taps(weight[2:], stride, padding, extra)
    phases = (weight[1] * groups * prod(stride), weight[0] // groups, *taps)
    ones = (1,) * len(size)
    return refuse_wrong(phases, ones, tuple(j - 1 for j in taps), ones, groups, size)


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
