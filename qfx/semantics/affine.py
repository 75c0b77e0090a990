"""Affine quantization arithmetic on plain tensors: the one place where it is written.

    q = clamp(round(x * (1 / scale) + zero_point), quant_min, quant_max)
    x' = (q - zero_point) * scale

after Jacob et al. 2018 (arXiv:1712.05877). Integers are held in plain uint8, int8, int16 or int32
tensors; PyTorch's quantized dtypes are not used. What is public stands in ``qfx.ops``.

Three choices fix the last bit, and every form of a quantized model follows them:

* the reciprocal of the scale multiplies; nothing is divided;
* the zero point is added *before* rounding, so ties go to the even code. Per tensor the product
  and the sum are one fused multiply-add (on CPUs that have it), per channel they round apart.
  This is what oneDNN computes, and ``torch.quantize_per_tensor`` and ``quantize_per_channel`` up to
  torch 2.13 (2.14.1 rounds the product first: ties may be a step off);
* half and bfloat16 are widened to float32 first, and codes beyond 24 bits are made in float64.

0.0 maps to the zero point exactly, and quantize(dequantize(q)) == q. NaN gives an unspecified code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qfx.semantics.layout import dense_view, join_groups, split_groups
from qfx.semantics.rounding import along, as_integers, real_values, trailing, unclamped, widened
from qfx.semantics.straight_through import LearnedStep, StraightThrough

MIN_SCALE = 2.0**-60
"""Smallest scale chosen: small enough for any data, and the product of two is a normal float32."""

_SMALLEST_SHARE = 2.0**-22


def quantize(
    input: Tensor,
    scale: Tensor | float,
    zero_point: Tensor | int,
    *,
    dtype: torch.dtype = torch.uint8,
    quant_min: int | None = None,
    quant_max: int | None = None,
    axis: int | None = None,
    group_size: int | None = None,
) -> Tensor:
    """Quantize a float tensor.

    Args:
        input: float tensor of any shape.
        scale: step size; a number, (C,) with ``axis``, or (C, G) with ``group_size``.
        zero_point: the integer that stands for 0.0, or would if it were one; shaped as ``scale``.
        dtype: integer dtype of the result.
        quant_min: smallest code; that of ``dtype`` when None.
        quant_max: largest code; that of ``dtype`` when None.
        axis: per-channel axis, or None for per-tensor.
        group_size: so many consecutive values of a channel share one scale; None: all of them.

    Returns:
        Tensor of ``dtype``, with the shape and memory format of ``input``.
    """
    low, high = code_bounds(dtype, quant_min, quant_max)
    if group_size is not None:
        groups = split_groups(input, axis, group_size)
        steps = unclamped(groups, trailing(scale), trailing(zero_point), low, high)
        return join_groups(as_integers(steps.clamp_(low, high), dtype), input, axis)
    if axis is not None:
        scale, zero_point = along(scale, axis, input), along(zero_point, axis, input)
    steps = unclamped(input, scale, zero_point, low, high)
    return as_integers(steps.clamp_(low, high), dtype)


def dequantize(
    input: Tensor,
    scale: Tensor | float,
    zero_point: Tensor | int,
    *,
    dtype: torch.dtype = torch.float32,
    axis: int | None = None,
    group_size: int | None = None,
) -> Tensor:
    """The float tensor that integers stand for: ``(input - zero_point) * scale``.

    Args:
        input: integer tensor of any shape.
        scale: as given to :func:`quantize`.
        zero_point: as given to :func:`quantize`.
        dtype: float dtype of the result; computed in float32 or wider.
        axis: as given to :func:`quantize`.
        group_size: as given to :func:`quantize`.
    """
    if group_size is not None:
        groups = split_groups(input, axis, group_size)
        values = widened(groups, dtype)
        values = real_values(values, trailing(scale), trailing(zero_point), dtype)
        return join_groups(values, input, axis)
    if axis is not None:
        scale, zero_point = along(scale, axis, input), along(zero_point, axis, input)
    return real_values(widened(input, dtype), scale, zero_point, dtype)


def fake_quantize(
    input: Tensor,
    scale: Tensor | float,
    zero_point: Tensor | int,
    *,
    quant_min: int,
    quant_max: int,
    axis: int | None = None,
    group_size: int | None = None,
) -> Tensor:
    """``dequantize(quantize(input))``, bit for bit, with the straight-through gradient.

    The gradient passes unchanged where the code lies within bounds, and is zero where it was
    clamped (Jacob et al. 2018, section 3). ``scale`` and ``zero_point`` receive none.
    """
    if group_size is not None:
        groups = split_groups(input, axis, group_size)
        numbers = trailing(scale), trailing(zero_point)
        made = StraightThrough.apply(groups, *numbers, quant_min, quant_max)  # type: ignore[no-untyped-call]
        return join_groups(made, input, axis)
    if axis is not None:
        scale, zero_point = along(scale, axis, input), along(zero_point, axis, input)
    result: Tensor = StraightThrough.apply(input, scale, zero_point, quant_min, quant_max)  # type: ignore[no-untyped-call]
    return result


def learned_fake_quantize(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    quant_min: int,
    quant_max: int,
    *,
    axis: int | None = None,
    gradient_scale: float = 1.0,
) -> Tensor:
    """:func:`fake_quantize` with a gradient for the scale, too (Esser et al. 2020).

    Args:
        input: float tensor of any shape.
        scale: positive, 0-dim, or (C,) with ``axis``.
        zero_point: shaped as ``scale``.
        quant_min: smallest code.
        quant_max: largest code.
        axis: per-channel axis, or None for per-tensor.
        gradient_scale: multiplies the gradient of ``scale``.
    """
    shaped = (scale, zero_point)
    if axis is not None:
        shaped = (along(scale, axis, input), along(zero_point, axis, input))  # type: ignore[assignment]
    numbers = *shaped, quant_min, quant_max, gradient_scale
    result: Tensor = LearnedStep.apply(input, *numbers)  # type: ignore[no-untyped-call]
    return result


def choose_qparams(
    low: Tensor,
    high: Tensor,
    *,
    quant_min: int,
    quant_max: int,
    symmetric: bool = False,
    power_of_two: bool = False,
    offset: bool = False,
) -> tuple[Tensor, Tensor]:
    """Scale and zero point for values in [low, high].

    Affine: ``scale = (high - low) / (quant_max - quant_min)`` over the range widened to hold 0.0,
    ``zero_point = quant_min - round(low / scale)``. Symmetric: the zero point is the middle code,
    and ``scale = max(-low, high)`` over half the number of steps (127.5 for int8: the largest
    value then errs by half a step, as any other). Where a range is empty (all values are zero),
    every scale is exact; the largest of the other channels is taken, or 1.0. A power of two is the
    scale rounded up to the next 2^e (e an integer), so that nothing more is clipped. The scale of a
    range that is not finite is NaN, so that what comes of its codes is NaN.

    With an offset the range is taken as it is, and the zero point is whatever number makes the
    smallest code stand for ``low``. Steps are no less than 2^-22 of the largest value, so that
    codes survive in float32. Kernels of 4-bit rows keep the scale and ``low`` as halves; with so
    few codes they are halves here, too, where that is no more than a rounding.

    Args:
        low: smallest values; float tensor of any shape.
        high: largest values, of the same shape.
        quant_min: smallest code.
        quant_max: largest code.
        symmetric: whether the zero point is the middle code.
        power_of_two: whether scales are powers of two: shifts, on hardware without multipliers.
        offset: whether the range need not hold 0.0.

    Returns:
        scale (float32, positive) and zero point (int32; float32 with an offset), shaped as ``low``.
    """
    wide = torch.float32 if low.device.type == "mps" else torch.float64
    low, high = low.to(wide), high.to(wide)
    if offset:
        return _with_offset(low, high, quant_min, quant_max, power_of_two)
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    if symmetric:
        scale = torch.maximum(-low, high) / half_steps(quant_min, quant_max)
    else:
        scale = high / (quant_max - quant_min) - low / (quant_max - quant_min)
    scale = _live(scale, power_of_two)
    finite = torch.isfinite(high - low)
    scale = torch.where(finite, scale, torch.nan)
    middle = torch.full_like(scale, middle_code(quant_min, quant_max), dtype=torch.int32)
    if symmetric:
        return scale, middle
    zero_point = (quant_min - torch.round(low / scale.to(wide))).clamp(quant_min, quant_max)
    return scale, torch.where(finite, zero_point.nan_to_num(), middle).to(torch.int32)


def _with_offset(
    low: Tensor, high: Tensor, quant_min: int, quant_max: int, power_of_two: bool
) -> tuple[Tensor, Tensor]:
    few = quant_max - quant_min < 16
    steps, largest = quant_max - quant_min, torch.maximum(low.abs(), high.abs())
    low = _near_half(low) if few else low
    scale = (high / steps - low / steps).maximum(largest * _SMALLEST_SHARE)
    scale = _live(_near_half(scale) if few else scale, power_of_two)
    return scale, (quant_min - low / scale.to(low.dtype)).to(torch.float32)


def _near_half(values: Tensor) -> Tensor:
    """``values`` as float16 has them, where they are normal numbers there."""
    halves = values.half()
    normal = halves.isfinite() & (halves.abs() >= torch.finfo(torch.float16).smallest_normal)
    return torch.where(normal, halves.to(values.dtype), values)


def _live(scale: Tensor, power_of_two: bool) -> Tensor:
    """Scales as float32 numbers that may be divided by: of nothing, the largest of the others."""
    live = scale > 0
    largest = torch.where(live, scale, 0.0).amax() if scale.numel() else scale.new_zeros(())
    spare = torch.where(largest > 0, largest, torch.ones_like(largest))
    scale = torch.where(live, scale.clamp(min=MIN_SCALE), spare).to(torch.float32)
    return _next_power_of_two(scale) if power_of_two else scale


def dynamic_qparams(
    input: Tensor,
    *,
    dtype: torch.dtype = torch.uint8,
    quant_min: int | None = None,
    quant_max: int | None = None,
    symmetric: bool = False,
    power_of_two: bool = False,
) -> tuple[Tensor, Tensor]:
    """Scale and zero point of ``input`` measured at run time, per tensor.

    Returns:
        0-dim float32 scale and 0-dim int32 zero point, as :func:`choose_qparams` gives for the
        smallest and largest value; scale 1.0 for an empty tensor.
    """
    low, high = code_bounds(dtype, quant_min, quant_max)
    if input.numel() == 0:
        smallest = largest = input.new_zeros((), dtype=torch.float32)
    else:
        smallest, largest = torch.aminmax(dense_view(input))
    return choose_qparams(
        smallest,
        largest,
        quant_min=low,
        quant_max=high,
        symmetric=symmetric,
        power_of_two=power_of_two,
    )


def middle_code(quant_min: int, quant_max: int) -> int:
    """The zero point of symmetric quantization: 0 where the bounds straddle it, else the middle."""
    return 0 if quant_min < 0 < quant_max else (quant_min + quant_max + 1) // 2


def half_steps(quant_min: int, quant_max: int) -> float:
    """Steps between the middle code and the symmetric limit; half a step of clamping is free."""
    middle = middle_code(quant_min, quant_max)
    below, above = middle - quant_min, quant_max - middle
    return float(below) if below == above else min(below, above) + 0.5


def next_power_of_two(scale: float) -> float:
    """The smallest power of two that is no smaller than a positive ``scale``."""
    mantissa, exponent = math.frexp(scale)
    return scale if mantissa == 0.5 or math.isinf(scale) else math.ldexp(1.0, exponent)


def _next_power_of_two(scale: Tensor) -> Tensor:
    """:func:`next_power_of_two` of float32 scales; by their exponents, as log2 would round."""
    mantissa, exponent = torch.frexp(scale)
    kept = (mantissa == 0.5) | scale.isinf()
    return torch.where(kept, scale, torch.ldexp(torch.ones_like(scale), exponent))


def code_bounds(
    dtype: torch.dtype, quant_min: int | None, quant_max: int | None
) -> tuple[int, int]:
    """The smallest and largest code: those of ``dtype`` where they are not given."""
    info = torch.iinfo(dtype)
    return (
        info.min if quant_min is None else quant_min,
        info.max if quant_max is None else quant_max,
    )
