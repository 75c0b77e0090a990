"""Pools and means of a quantized tensor, in the steps of their input.

``input`` is codes (N, C, *sizes) or (C, *sizes); sizes, strides and paddings are numbers, or one
for each dim. Padding of a maximum never wins; that of an average counts as 0.0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from qfx.ops.operands import Params, result, values

Sizes = int | Sequence[int]
PoolFunction = Callable[..., Tensor]


def mean(
    input: Tensor, qparams: Params, dim: int | tuple[int, ...], *, keepdim: bool = False
) -> Tensor:
    """The mean along one dim or several, in the steps of ``input``."""
    return result(values(input, qparams, "input").mean(dim, keepdim), qparams, input.dtype)


def _max_pool(function: PoolFunction) -> PoolFunction:
    def max_pool(
        input: Tensor,
        qparams: Params,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        *,
        ceil_mode: bool = False,
    ) -> Tensor:
        """The largest of each window."""
        x = values(input, qparams, "input")
        y = function(x, kernel_size, stride, padding, dilation, ceil_mode)
        return result(y, qparams, input.dtype)

    return _named(max_pool, function)


def _avg_pool(function: PoolFunction) -> PoolFunction:
    def avg_pool(
        input: Tensor,
        qparams: Params,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        *,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> Tensor:
        """The mean of each window, rounded to a step."""
        x = values(input, qparams, "input")
        y = function(x, kernel_size, stride or kernel_size, padding, ceil_mode, count_include_pad)
        return result(y, qparams, input.dtype)

    return _named(avg_pool, function)


def _adaptive_avg_pool(function: PoolFunction) -> PoolFunction:
    def adaptive_avg_pool(input: Tensor, qparams: Params, output_size: Sizes) -> Tensor:
        """Means of as many windows as ``output_size`` says."""
        y = function(values(input, qparams, "input"), output_size)
        return result(y, qparams, input.dtype)

    return _named(adaptive_avg_pool, function)


def _named(operation: PoolFunction, function: PoolFunction) -> PoolFunction:
    operation.__name__ = operation.__qualname__ = function.__name__
    return operation


max_pool1d, max_pool2d, max_pool3d = map(_max_pool, (F.max_pool1d, F.max_pool2d, F.max_pool3d))
avg_pool1d, avg_pool2d, avg_pool3d = map(_avg_pool, (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d))
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = map(
    _adaptive_avg_pool,
    (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
)
