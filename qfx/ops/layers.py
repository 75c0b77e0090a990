"""Layers with quantized weights.

``weight_qparams`` are per tensor, or have a scale for each channel: (C,) tensors along dim 0 (dim 1
of transposed convolutions) in a pair, any axis and groups in :class:`qfx.QParams`. The bias stays
float, added before the result is rounded; none is rounded to the accumulator's steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from qfx.ops.operands import Params, rectified, result, values
from qfx.ops.tensors import quantize_dynamic

Sizes = int | Sequence[int]


def linear(
    input: Tensor,
    input_qparams: Params,
    weight: Tensor,
    weight_qparams: Params,
    out_qparams: Params | None = None,
    bias: Tensor | None = None,
    *,
    relu: bool = False,
) -> Tensor:
    """``y = x @ w.T + bias``.

    Args:
        input: codes (..., K).
        input_qparams: those of ``input``, per tensor.
        weight: codes (N, K).
        weight_qparams: those of ``weight``.
        out_qparams: those of the result, per tensor; None gives float32.
        bias: float (N,), or None.
        relu: whether negative numbers become 0.0 before the result is rounded.

    Returns:
        Codes (..., N).

    Raises:
        ConfigError: codes that are no integers, or not those of their qparams.
    """
    x, w = values(input, input_qparams, "input"), values(weight, weight_qparams, "weight")
    y = F.linear(x, w, None if bias is None else bias.to(x.dtype))
    return result(y, out_qparams, input.dtype, relu=relu)


def linear_dynamic(
    input: Tensor,
    weight: Tensor,
    weight_qparams: Params,
    bias: Tensor | None = None,
    *,
    relu: bool = False,
) -> Tensor:
    """``y = x' @ w.T + bias`` in float32, where ``x'`` is ``x`` quantized to uint8 over its range.

    Args:
        input: float (..., K).
        weight: codes (N, K).
        weight_qparams: those of ``weight``.
        bias: float (N,), or None.
        relu: whether negative numbers become 0.0.
    """
    codes, measured = quantize_dynamic(input)
    return linear(codes, measured, weight, weight_qparams, None, bias, relu=relu)


def embedding(
    indices: Tensor, weight: Tensor, weight_qparams: Params, out_qparams: Params | None = None
) -> Tensor:
    """The rows (*, width) of ``weight`` (rows, width) that integers (*) name."""
    rows = F.embedding(indices, values(weight, weight_qparams, "weight"))
    return result(rows, out_qparams, weight.dtype)


def _conv(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def conv(
        input: Tensor,
        input_qparams: Params,
        weight: Tensor,
        weight_qparams: Params,
        out_qparams: Params | None = None,
        bias: Tensor | None = None,
        *,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        relu: bool = False,
    ) -> Tensor:
        """Convolve codes (N, C, *sizes) with ``weight`` (M, C / groups, *kernel): (N, M, *sizes).

        The padding is 0.0. Other arguments are those of :func:`qfx.ops.linear` and of PyTorch.
        """
        x, w = values(input, input_qparams, "input"), values(weight, weight_qparams, "weight")
        b = None if bias is None else bias.to(x.dtype)
        y = function(x, w, b, stride, padding, dilation, groups)
        return result(y, out_qparams, input.dtype, relu=relu)

    conv.__name__ = conv.__qualname__ = function.__name__
    return conv


def _conv_transpose(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def conv_transpose(
        input: Tensor,
        input_qparams: Params,
        weight: Tensor,
        weight_qparams: Params,
        out_qparams: Params | None = None,
        bias: Tensor | None = None,
        *,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        dilation: Sizes = 1,
    ) -> Tensor:
        """Convolve codes (N, C, *sizes), transposed, with ``weight`` (C, M / groups, *kernel).

        The other arguments are those of :func:`qfx.ops.linear` and of PyTorch.
        """
        x, w = values(input, input_qparams, "input"), values(weight, weight_qparams, "weight", 1)
        b = None if bias is None else bias.to(x.dtype)
        y = function(x, w, b, stride, padding, output_padding, groups, dilation)
        return result(y, out_qparams, input.dtype)

    conv_transpose.__name__ = conv_transpose.__qualname__ = function.__name__
    return conv_transpose


conv1d, conv2d, conv3d = map(_conv, (F.conv1d, F.conv2d, F.conv3d))
conv_transpose1d, conv_transpose2d, conv_transpose3d = map(
    _conv_transpose, (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
)
linear_relu = rectified(linear)
conv1d_relu, conv2d_relu, conv3d_relu = map(rectified, (conv1d, conv2d, conv3d))
