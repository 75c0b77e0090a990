"""Quantized tensors made of float tensors, as PyTorch's tensor functions spell it."""

from __future__ import annotations

import torch
from torch import Tensor

from qfx.errors import ConfigError
from qfx.ops.operands import (
    Params,
    check_codes,
    check_dtype,
    check_floats,
    codes_of,
    fitting,
    qparams,
)
from qfx.quant.qparams import QParams
from qfx.semantics import affine


def quantize(
    input: Tensor,
    scale: Tensor | float | Params,
    zero_point: Tensor | int | None = None,
    *,
    dtype: torch.dtype | None = None,
    quant_min: int | None = None,
    quant_max: int | None = None,
    axis: int | None = None,
    group_size: int | None = None,
) -> Tensor:
    """Quantize a float tensor: ``clamp(round(x * (1 / scale) + zero_point), ...)``.

    Args:
        input: float tensor of any shape.
        scale: step size, positive; a number, (C,) with ``axis``, or (C, G) with ``group_size``. Or
            whole qparams: a pair (scale, zero_point), or :class:`qfx.QParams`, which say the rest.
        zero_point: code of 0.0, within the bounds; shaped as ``scale``. A float32 tensor where it
            is no code, as of embeddings with an offset.
        dtype: integer dtype of the result; torch.uint8 when None.
        quant_min: smallest code; that of ``dtype`` when None.
        quant_max: largest code; that of ``dtype`` when None.
        axis: per-channel axis, or None for per-tensor; negative counts from the end.
        group_size: so many consecutive values of a channel share one scale; None: all of them.

    Returns:
        Tensor of ``dtype``, with the shape and memory format of ``input``.

    Raises:
        ConfigError: ``input`` is no float tensor, or the qparams are none, or do not fit it.
    """
    check_floats(input)
    if isinstance(scale, QParams):
        _check_alone(zero_point, dtype, quant_min, quant_max, axis, group_size)
        return codes_of(input, fitting(input, scale))
    codes = torch.uint8 if dtype is None else dtype
    check_dtype(codes)
    pair = _pair(scale, zero_point)
    params = _fitting(input, pair, codes, axis, group_size, (quant_min, quant_max))
    return codes_of(input, params)


def dequantize(
    input: Tensor,
    scale: Tensor | float | Params,
    zero_point: Tensor | int | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    axis: int | None = None,
    group_size: int | None = None,
) -> Tensor:
    """The float tensor that codes stand for: ``(input - zero_point) * scale``.

    Args:
        input: integer tensor of any shape.
        scale: as given to :func:`quantize`.
        zero_point: as given to :func:`quantize`.
        axis: as given to :func:`quantize`.
        group_size: as given to :func:`quantize`.
        dtype: float dtype of the result; computed in float32 or wider.

    Raises:
        ConfigError: ``input`` holds no codes, or the qparams are none, or do not fit it.
    """
    check_codes(input, "input")
    if isinstance(scale, QParams):
        _check_alone(zero_point, axis, group_size)
        if scale.dtype != input.dtype:
            raise ConfigError(
                f"input holds {input.dtype}, but its qparams are those of {scale.dtype} codes"
            )
        return fitting(input, scale).dequantize(input, dtype)
    pair = _pair(scale, zero_point)
    return _fitting(input, pair, input.dtype, axis, group_size).dequantize(input, dtype)


def _check_alone(*others: object) -> None:
    """ConfigError if something is given beside QParams, which say it already."""
    if any(other is not None for other in others):
        raise ConfigError(
            "qfx.QParams hold zero point, dtype, bounds, axis and group size: give none of these "
            "beside them, or give the scale and the zero point"
        )


def _pair(
    scale: Tensor | float | tuple[Tensor | float, Tensor | int], zero_point: Tensor | int | None
) -> tuple[Tensor | float, Tensor | int]:
    """A scale and a zero point, given as two arguments or as one."""
    if isinstance(scale, (tuple, list)) and zero_point is None:
        return scale  # what it holds is checked with the rest
    if isinstance(scale, (tuple, list)):
        raise ConfigError("the zero point is given twice: in the pair, and beside it")
    if zero_point is None:
        raise ConfigError(
            "zero_point is missing: give scale and zero_point, a pair of them, or qfx.QParams"
        )
    return scale, zero_point


def _fitting(
    input: Tensor,
    pair: tuple[Tensor | float, Tensor | int],
    dtype: torch.dtype,
    axis: int | None,
    group_size: int | None,
    bounds: tuple[int | None, int | None] = (None, None),
) -> QParams:
    """Qparams, one for each place along ``axis`` of ``input``."""
    dims = input.dim()
    if axis is not None and not -dims <= axis < dims:
        raise ConfigError(f"axis={axis} is no dim of a tensor of shape {tuple(input.shape)}")
    along = axis + dims if axis is not None and axis < 0 else axis
    params = qparams(pair, dtype, "these qparams", along, bounds=bounds, group_size=group_size)
    return fitting(input, params)


def quantize_per_channel(
    input: Tensor,
    scale: Tensor | Params,
    zero_point: Tensor | None = None,
    axis: int | None = None,
    *,
    dtype: torch.dtype | None = None,
    quant_min: int | None = None,
    quant_max: int | None = None,
) -> Tensor:
    """Quantize a float tensor with a scale for each channel.

    Args:
        input: float tensor of any shape, C channels along ``axis``.
        scale: step sizes, positive float (C,); or whole qparams, as :func:`quantize` takes them.
        zero_point: codes of 0.0, integer (C,), within the bounds.
        axis: per-channel axis; negative counts from the end.
        dtype: integer dtype of the result; torch.int8 when None.
        quant_min: smallest code; that of ``dtype`` when None.
        quant_max: largest code; that of ``dtype`` when None.

    Returns:
        Tensor of ``dtype``, shaped as ``input``; ``dequantize`` with ``axis`` leads back.

    Raises:
        ConfigError: scales or zero points that are not (C,), not positive, or out of bounds.
    """
    if isinstance(scale, QParams):
        _check_alone(zero_point, axis, dtype, quant_min, quant_max)
        if scale.axis is None:
            raise ConfigError("these qfx.QParams are those of a tensor, not of its channels")
        return quantize(input, scale)
    pair = _pair(scale, zero_point)
    if len(pair) != 2 or not all(isinstance(each, Tensor) for each in pair):
        raise ConfigError("scale and zero_point must be tensors (C,), a number for each channel")
    if axis is None:
        raise ConfigError("axis is missing: along which the channels lie")
    codes = torch.int8 if dtype is None else dtype
    return quantize(input, pair, dtype=codes, quant_min=quant_min, quant_max=quant_max, axis=axis)


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
    check_floats(input)
    check_dtype(dtype)
    low, high = affine.code_bounds(dtype, quant_min, quant_max)
    scale, zero_point = affine.dynamic_qparams(
        input, dtype=dtype, quant_min=low, quant_max=high, symmetric=symmetric
    )
    params = QParams(float(scale), int(zero_point), dtype, low, high)
    return params.quantize(input), params
