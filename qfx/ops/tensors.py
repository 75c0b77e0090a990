"""Quantized tensors made of float tensors, as PyTorch's tensor functions spell it."""

from __future__ import annotations

import torch
from torch import Tensor

from qfx.quant.qparams import QParams
from qfx.semantics import affine


def quantize_per_channel(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    axis: int,
    *,
    dtype: torch.dtype = torch.int8,
    quant_min: int | None = None,
    quant_max: int | None = None,
) -> Tensor:
    """Quantize a float tensor with a scale for each channel.

    Args:
        input: float tensor of any shape, C channels along ``axis``.
        scale: step sizes, positive float (C,).
        zero_point: codes of 0.0, integer (C,), within the bounds.
        axis: per-channel axis; negative counts from the end.
        dtype: integer dtype of the result.
        quant_min: smallest code; that of ``dtype`` when None.
        quant_max: largest code; that of ``dtype`` when None.

    Returns:
        Tensor of ``dtype``, shaped as ``input``; ``dequantize`` with ``axis`` leads back.

    Raises:
        ConfigError: scales or zero points that are not (C,), not positive, or out of bounds.
    """
    low, high = affine.code_bounds(dtype, quant_min, quant_max)
    zeros = torch.as_tensor(zero_point).to(torch.int32)
    along = axis + input.dim() if axis < 0 else axis
    return QParams(scale.float(), zeros, dtype, low, high, along).quantize(input)


def quantize_dynamic(
    input: Tensor,
    *,
    dtype: torch.dtype = torch.uint8,
    quant_min: int | None = None,
    quant_max: int | None = None,
    symmetric: bool = False,
) -> tuple[Tensor, QParams]:
    """Quantize a float tensor over the range that it has.

    Args:
        input: float tensor of any shape.
        dtype: integer dtype of the codes.
        quant_min: smallest code; that of ``dtype`` when None.
        quant_max: largest code; that of ``dtype`` when None.
        symmetric: whether the zero point is the middle code.

    Returns:
        Codes shaped as ``input``, and their qparams; see :func:`qfx.ops.dynamic_qparams`.
    """
    low, high = affine.code_bounds(dtype, quant_min, quant_max)
    scale, zero_point = affine.dynamic_qparams(
        input, dtype=dtype, quant_min=low, quant_max=high, symmetric=symmetric
    )
    params = QParams(float(scale), int(zero_point), dtype, low, high)
    return params.quantize(input), params
