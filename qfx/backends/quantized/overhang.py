"""Overhang (:mod:`qfx.backends.onednn.overhang`) for convolutions on quantized dtypes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from qfx.backends.base import LoweringSite
from qfx.backends.onednn.overhang import (
    Sizes,
    lacks_room,
    least_sizes,
    outer_padding,
    padded,
    with_room,
)

_ops = torch.ops.quantized
_KERNELS: Mapping[str, Callable[..., Tensor]] = {
    "conv1d": _ops.conv1d.default,
    "conv1d_relu": _ops.conv1d_relu.default,
    "conv2d": _ops.conv2d.new,
    "conv2d_relu": _ops.conv2d_relu.new,
    "conv3d": _ops.conv3d.new,
    "conv3d_relu": _ops.conv3d_relu.new,
}


def roomy_conv(
    x: Tensor, packed: object, *rest: object, name: str, stride: Sizes, least: Sizes, outer: Sizes
) -> Tensor:
    """``quantized::name`` on an input of any size.

    Args:
        x: quantized, (batch, channels, *spatial).
        packed: the packed weight.
        rest: further arguments of the kernel.
        name: of the kernel.
        stride: of the convolution.
        least: from :func:`~qfx.backends.onednn.overhang.least_sizes`.
        outer: padding to do before, as in ``F.pad``; ``packed`` does the rest.
    """
    kernel = _KERNELS[name]
    if outer:
        x = padded(x, outer)
    if not lacks_room(x, least):
        return kernel(x, packed, *rest)
    return with_room(lambda x, _: kernel(x, packed, *rest), x, least, stride, 0.0)


def room_of(site: LoweringSite, packing: str, dims: int) -> tuple[LoweringSite, dict[str, Any]]:
    """The convolution to pack under an engine, and what :func:`roomy_conv` needs ({} for nothing).

    Args:
        site: a convolution.
        packing: the engine; "x86" takes oneDNN's kernels for most convolutions.
        dims: spatial dims.
    """
    if packing not in ("x86", "onednn") or site.weight is None:
        return site, {}
    kernel = site.weight.integers.shape[2:]
    stride, padding, dilation = (
        per_dim(site.arguments[name], dims) for name in ("stride", "padding", "dilation")
    )
    inner, outer = outer_padding(kernel, padding, dilation)
    least = least_sizes(kernel, stride, inner, dilation)
    if not least and not outer:
        return site, {}
    inside = replace(site, arguments={**site.arguments, "padding": inner})
    return inside, {"stride": stride, "least": least, "outer": outer}


def per_dim(value: Any, dims: int) -> list[int]:
    """A number per spatial dim."""
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values
