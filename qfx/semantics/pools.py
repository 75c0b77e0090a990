"""Pools, interpolation and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def mean(
    input: Tensor, *, dim: int | tuple[int, ...] | None = None, keepdim: bool = False
) -> Tensor:
    return input.mean() if dim is None else input.mean(dim, keepdim)


def _max_pool(function: Callable[..., object], dims: int) -> Callable[..., Any]:
    zeros, ones = (0,) * dims, (1,) * dims

    def max_pool(
        input: Tensor,
        *,
        kernel_size: Sequence[int],
        stride: Sequence[int] | None = None,
        padding: Sequence[int] = zeros,
        dilation: Sequence[int] = ones,
        ceil_mode: bool = False,
        return_indices: bool = False,
        spread: Sequence[int] = (),
        fill: float = -math.inf,
    ) -> Any:
        """Maxima over windows of ``input``, padded with ``fill`` by ``spread`` (as ``F.pad``)."""
        if spread:
            input = F.pad(input, tuple(spread), value=fill)
        return function(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)

    return max_pool


def _avg_pool(function: Callable[..., Tensor], dims: int) -> Callable[..., Tensor]:
    zeros = (0,) * dims

    def avg_pool(
        input: Tensor,
        *,
        kernel_size: Sequence[int],
        stride: Sequence[int] | None = None,
        padding: Sequence[int] = zeros,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Tensor:
        extra = () if divisor_override is None else (divisor_override,)
        return function(
            input, kernel_size, stride or kernel_size, padding, ceil_mode, count_include_pad, *extra
        )

    return avg_pool


def _lp_pool(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def lp_pool(
        input: Tensor,
        *,
        norm_type: float,
        kernel_size: Sequence[int],
        stride: Sequence[int] | None = None,
        ceil_mode: bool = False,
    ) -> Tensor:
        """The root of the sum of powers over windows: ``(sum x^p)^(1/p)``."""
        size = kernel_size[0] if len(kernel_size) == 1 else kernel_size
        return function(input, norm_type, size, stride or kernel_size, ceil_mode)

    return lp_pool


def _max_unpool(function: Callable[..., Tensor], dims: int) -> Callable[..., Tensor]:
    zeros = (0,) * dims

    def max_unpool(
        input: Tensor,
        indices: Tensor,
        *,
        kernel_size: Sequence[int],
        stride: Sequence[int] | None = None,
        padding: Sequence[int] = zeros,
        output_size: Sequence[int] | None = None,
    ) -> Tensor:
        """Maxima back where they were, zeros around."""
        return function(input, indices, kernel_size, stride or kernel_size, padding, output_size)

    return max_unpool


def _adaptive_pool(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def adaptive_pool(input: Tensor, *, output_size: int | Sequence[int | None]) -> Tensor:
        return function(input, output_size)

    return adaptive_pool


max_pool1d, max_pool2d, max_pool3d = map(
    _max_pool, (F.max_pool1d, F.max_pool2d, F.max_pool3d), (1, 2, 3)
)

lp_pool1d, lp_pool2d, lp_pool3d = map(_lp_pool, (F.lp_pool1d, F.lp_pool2d, F.lp_pool3d))

max_unpool1d, max_unpool2d, max_unpool3d = map(
    _max_unpool, (F.max_unpool1d, F.max_unpool2d, F.max_unpool3d), (1, 2, 3)
)

avg_pool1d, avg_pool2d, avg_pool3d = map(
    _avg_pool, (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), (1, 2, 3)
)

adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = map(
    _adaptive_pool, (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
)

adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = map(
    _adaptive_pool, (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
)


def interpolate(
    input: Tensor,
    *,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    return F.interpolate(
        input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias
    )


def sum(
    input: Tensor, *, dim: int | tuple[int, ...] | None = None, keepdim: bool = False
) -> Tensor:
    return input.sum() if dim is None else input.sum(dim, keepdim)


def prod(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Tensor:
    return input.prod() if dim is None else input.prod(dim, keepdim)


def logsumexp(input: Tensor, *, dim: int | tuple[int, ...], keepdim: bool = False) -> Tensor:
    return torch.logsumexp(input, dim, keepdim)


def max_along(input: Tensor, *, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The largest along a dim, and where they are: named, as callers may ask for by name."""
    return torch.max(input, dim, keepdim)


def min_along(input: Tensor, *, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The smallest, likewise."""
    return torch.min(input, dim, keepdim)


def median(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The value in the middle, the lower of two, without where it is."""
    return input.median() if dim is None else input.median(dim, keepdim)[0]


def kthvalue(
    input: Tensor, *, k: int, dim: int = -1, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """The ``k``-th smallest along a dim, and where it is: named, as callers may ask for by name."""
    return torch.kthvalue(input, k, dim, keepdim)


def mode(input: Tensor, *, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The value that is most frequent along a dim, and where it is, likewise."""
    return torch.mode(input, dim, keepdim)


def quantile(
    input: Tensor,
    q: Tensor | float,
    *,
    dim: int | None = None,
    keepdim: bool = False,
    interpolation: str = "linear",
) -> Tensor:
    """What a part ``q`` of the values is no larger than."""
    return torch.quantile(input, q, dim, keepdim, interpolation=interpolation)


def amax(input: Tensor, *, dim: int | tuple[int, ...] = (), keepdim: bool = False) -> Tensor:
    return input.amax(dim, keepdim)


def amin(input: Tensor, *, dim: int | tuple[int, ...] = (), keepdim: bool = False) -> Tensor:
    return input.amin(dim, keepdim)


def var(
    input: Tensor,
    *,
    dim: int | tuple[int, ...] | None = None,
    correction: float = 1,
    keepdim: bool = False,
) -> Tensor:
    return input.var(dim, correction=correction, keepdim=keepdim)


def std(
    input: Tensor,
    *,
    dim: int | tuple[int, ...] | None = None,
    correction: float = 1,
    keepdim: bool = False,
) -> Tensor:
    return input.std(dim, correction=correction, keepdim=keepdim)


def vector_norm(
    input: Tensor,
    *,
    ord: float = 2,
    dim: int | tuple[int, ...] | None = None,
    keepdim: bool = False,
) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(input, ord, dim, keepdim)
    return length


def cumprod(input: Tensor, *, dim: int) -> Tensor:
    return input.cumprod(dim)


def cumsum(input: Tensor, *, dim: int) -> Tensor:
    return input.cumsum(dim)


def logcumsumexp(input: Tensor, *, dim: int) -> Tensor:
    return input.logcumsumexp(dim)
