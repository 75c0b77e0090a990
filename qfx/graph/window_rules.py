"""What convolutions, pools and interpolation yield, in a batch, from the windows that they read.

Along each dim, with ``d (k - 1) + 1`` the reach of a window:

    windows = floor((n + 2 p - d (k - 1) - 1) / s) + 1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qfx.graph.meta import TensorInfo
from qfx.graph.shape_arithmetic import NUMBERS, Dims, Told, fit, have, like, numbers


def _windows(
    spatial: Dims,
    kernel: Dims | None,
    stride: Dims | None,
    padding: Dims | None,
    dilation: Dims | None,
) -> Dims | None:
    """How many windows fit along each of the last dims."""
    if kernel is None or stride is None or padding is None or dilation is None:
        return None
    sizes = zip(spatial, kernel, stride, padding, dilation, strict=True)
    found = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
    return found if min(found) > 0 else None


def conv_rule(dims: int) -> Callable[..., Told]:
    def conv(
        input: TensorInfo,
        weight: TensorInfo,
        bias: TensorInfo | None,
        stride: object,
        padding: object,
        dilation: object,
        groups: int,
    ) -> Told:
        if not fit(input, weight, bias) or not _is_layer(input, weight, dims, groups):
            return None
        out, width = weight.shape[:2]
        is_right = input.shape[1] == width * groups and out % groups == 0 and have((out,), bias)
        found = _windows(
            *(input.shape[2:], weight.shape[2:], numbers(stride, dims, 1)),
            *(numbers(padding, dims, 0), numbers(dilation, dims, 1)),
        )
        return like(input, (input.shape[0], out, *found)) if found and is_right else None

    return conv


def conv_transpose_rule(dims: int) -> Callable[..., Told]:
    def conv_transpose(
        input: TensorInfo,
        weight: TensorInfo,
        bias: TensorInfo | None,
        stride: object,
        padding: object,
        output_padding: object,
        groups: int,
        dilation: object,
    ) -> Told:
        if not fit(input, weight, bias) or not _is_layer(input, weight, dims, groups):
            return None
        steps, edges, more = (
            numbers(value, dims, least)
            for value, least in ((stride, 1), (padding, 0), (output_padding, 0))
        )
        spread, out = numbers(dilation, dims, 1), weight.shape[1] * groups
        if steps is None or edges is None or more is None or spread is None:
            return None
        sizes = zip(input.shape[2:], weight.shape[2:], steps, edges, more, spread, strict=True)
        found = [(n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, o, d in sizes]
        fits = all(o < max(s, d) for o, s, d in zip(more, steps, spread, strict=True))
        if input.shape[1] != weight.shape[0] or weight.shape[0] % groups or not fits:
            return None
        is_right = min(found) > 0 and have((out,), bias)
        return like(input, (input.shape[0], out, *found)) if is_right else None

    return conv_transpose


def _is_layer(input: TensorInfo, weight: TensorInfo, dims: int, groups: object) -> bool:
    """Whether input and weight have as many dims as a batch and a weight of this layer have."""
    ranks = {len(input.shape), len(weight.shape)}
    return ranks == {dims + 2} and type(groups) is int and groups > 0


def pool_rule(dims: int) -> Callable[..., Told]:
    def pool(
        input: TensorInfo,
        kernel_size: object,
        stride: object,
        padding: object,
        ceil_mode: object,
        dilation: object = 1,
        **rest: object,
    ) -> Told:
        """Of plain windows: no indices, no padding of its own."""
        if not fit(input) or len(input.shape) != dims + 2 or ceil_mode is not False:
            return None
        if rest.get("return_indices") or rest.get("spread") or rest.get("divisor_override") == 0:
            return None
        kernel, edges = numbers(kernel_size, dims, 1), numbers(padding, dims, 0)
        if kernel is None or edges is None:
            return None
        sizes = zip(input.shape[2:], kernel, edges, strict=True)
        if any(k > n or 2 * p > k for n, k, p in sizes):
            return None
        steps = numbers(stride or kernel, dims, 1)
        found = _windows(input.shape[2:], kernel, steps, edges, numbers(dilation, dims, 1))
        return like(input, (*input.shape[:2], *found)) if found else None

    return pool


def adaptive_pool_rule(dims: int) -> Callable[..., Told]:
    def adaptive_pool(input: TensorInfo, output_size: object) -> Told:
        sizes = numbers(output_size, dims, 1)
        if not fit(input) or len(input.shape) != dims + 2 or sizes is None:
            return None
        return like(input, (*input.shape[:2], *sizes))

    return adaptive_pool


_MODES = {
    "nearest": (3, 4, 5),
    "nearest-exact": (3, 4, 5),
    "linear": (3,),
    "bilinear": (4,),
    "bicubic": (4,),
    "trilinear": (5,),
}
"""Modes of interpolation, and how many dims its inputs have."""


def interpolated(
    input: TensorInfo,
    size: object,
    scale_factor: object,
    mode: str,
    align_corners: object,
    recompute_scale_factor: object,
    antialias: object,
) -> Told:
    if not fit(input) or len(input.shape) not in _MODES.get(mode, ()) or antialias is not False:
        return None
    if (size is None) == (scale_factor is None) or recompute_scale_factor is not None:
        return None
    if mode.startswith("nearest") and align_corners is not None:
        return None
    spatial = input.shape[2:]
    found = numbers(size, len(spatial), 1) if size is not None else _scaled(spatial, scale_factor)
    return like(input, (*input.shape[:2], *found)) if found else None


def _scaled(spatial: Dims, factor: Any) -> Dims | None:
    """Sizes times a factor that floats of any precision hold exactly."""
    factors = tuple(factor) if isinstance(factor, (tuple, list)) else (factor,) * len(spatial)
    is_plain = all(type(f) in NUMBERS and float(64 * f).is_integer() for f in factors)
    if len(factors) != len(spatial) or not is_plain:
        return None
    return tuple(int(size * f) for size, f in zip(spatial, factors, strict=True))
