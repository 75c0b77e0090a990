"""Quantization parameters of one tensor: what turns its integers into numbers.

Per tensor ``scale`` and ``zero_point`` are Python numbers, per channel (C,) tensors along ``axis``,
group-wise (C, G) tensors. Scales are always representable in float32, so that a value survives any
trip through a file, a graph or a kernel argument.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from qfx.errors import ConfigError
from qfx.private_attributes import version_of
from qfx.semantics import affine as ops

if TYPE_CHECKING:
    from qfx.quant.spec import QuantSpec

_SINGLE = struct.Struct("f")


@dataclass(frozen=True, eq=False)
class QParams:
    """Affine parameters: ``x = (q - zero_point) * scale``.

    Attributes:
        scale: step size, positive; a float, or a float32 tensor (C,) or (C, G).
        zero_point: code of 0.0, within the bounds; an int, or an int32 tensor shaped as ``scale``.
            A float32 tensor where it is no code: any finite number.
        dtype: integer dtype that holds the codes.
        quant_min, quant_max: bounds of the codes, inclusive.
        axis: channel axis, None per tensor.
        group_size: values of a channel that share one scale, None for all of them.
    """

    scale: Tensor | float
    zero_point: Tensor | int
    dtype: torch.dtype
    quant_min: int
    quant_max: int
    axis: int | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        info = torch.iinfo(self.dtype)
        if not info.min <= self.quant_min < self.quant_max <= info.max:
            raise ConfigError(
                f"bounds [{self.quant_min}, {self.quant_max}] are no range within {self.dtype},"
                f" which holds [{info.min}, {info.max}]"
            )
        if isinstance(self.scale, Tensor) and isinstance(self.zero_point, Tensor):
            self._check_tensors(self.scale, self.zero_point)
        elif isinstance(self.scale, Tensor) or isinstance(self.zero_point, Tensor):
            raise ConfigError("scale and zero_point must both be tensors, or both be numbers")
        else:
            self._check_numbers(self.scale, self.zero_point)

    def _check_numbers(self, scale: float, zero_point: int) -> None:
        rounded = float32(scale)
        if not (math.isfinite(rounded) and rounded > 0):
            raise ConfigError(f"scale must be a positive finite float32 number, not {scale!r}")
        if self.axis is not None or self.group_size is not None:
            raise ConfigError("qparams with an axis need tensors of one scale per channel")
        if not self.quant_min <= zero_point <= self.quant_max:
            raise ConfigError(
                f"zero_point {zero_point} is outside the bounds"
                f" [{self.quant_min}, {self.quant_max}]: 0.0 would have no code"
            )
        object.__setattr__(self, "scale", rounded)
        object.__setattr__(self, "zero_point", int(zero_point))

    def _check_tensors(self, scale: Tensor, zero: Tensor) -> None:
        rank = 1 if self.group_size is None else 2
        if self.axis is None or scale.dim() != rank or scale.shape != zero.shape:
            raise ConfigError(
                f"scale of shape {tuple(scale.shape)} and zero_point of shape"
                f" {tuple(zero.shape)} do not fit axis={self.axis}, group_size={self.group_size}:"
                " give (C,) per channel, (C, G) with groups"
            )
        fraction = zero.dtype.is_floating_point
        if scale.dtype != torch.float32 or (fraction and zero.dtype != torch.float32):
            raise ConfigError(
                "scale must be float32, and zero_point integer or float32,"
                f" not {scale.dtype} and {zero.dtype}"
            )
        if not lie_within(scale, _SMALLEST, _LARGEST):
            raise ConfigError("every scale must be positive and finite")
        if fraction:
            if not lie_within(zero, -_LARGEST, _LARGEST):
                raise ConfigError("every zero point must be finite")
        elif not lie_within(zero, self.quant_min, self.quant_max):
            raise ConfigError(
                f"a zero point is outside the bounds [{self.quant_min}, {self.quant_max}]"
            )

    def quantize(self, input: Tensor) -> Tensor:
        """Integers of ``input``; see :func:`qfx.semantics.affine.quantize`."""
        return ops.quantize(
            input,
            self.scale,
            self.zero_point,
            dtype=self.dtype,
            quant_min=self.quant_min,
            quant_max=self.quant_max,
            axis=self.axis,
            group_size=self.group_size,
        )

    def dequantize(self, input: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The float tensor that integers stand for."""
        return ops.dequantize(
            input,
            self.scale,
            self.zero_point,
            dtype=dtype,
            axis=self.axis,
            group_size=self.group_size,
        )

    def rounded(self, input: Tensor) -> Tensor:
        """The floats that the integers of ``input`` stand for, bit for bit, without integers."""
        return ops.fake_quantize(
            input,
            self.scale,
            self.zero_point,
            quant_min=self.quant_min,
            quant_max=self.quant_max,
            axis=self.axis,
            group_size=self.group_size,
        )

    def _numbers(self) -> tuple[object, ...]:
        return (
            self.scale.tolist() if isinstance(self.scale, Tensor) else self.scale,
            self.zero_point.tolist() if isinstance(self.zero_point, Tensor) else self.zero_point,
            self.dtype,
            self.quant_min,
            self.quant_max,
            self.axis,
            self.group_size,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QParams):
            return NotImplemented
        return self is other or self._numbers() == other._numbers()

    def __hash__(self) -> int:
        return hash((self.dtype, self.quant_min, self.quant_max, self.axis, self.group_size))

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        if isinstance(self.scale, Tensor):
            shape = ",".join(map(str, self.scale.shape))
            return f"{name}[{self.quant_min}..{self.quant_max}] axis={self.axis} scales[{shape}]"
        return (
            f"{name}[{self.quant_min}..{self.quant_max}]"
            f" scale={self.scale:.6g} zero_point={self.zero_point}"
        )


_SMALLEST, _LARGEST = 2.0**-149, torch.finfo(torch.float32).max
"""The positive float32 numbers: from the smallest subnormal one on."""


_ENDS = WeakIdKeyDictionary()
"""Of scales and zero points that were looked at: in which state, the least and the greatest."""


def lie_within(values: Tensor, low: float, high: float) -> bool:
    """Whether all values are from ``low`` to ``high``; NaN is not.

    Graphs are checked, lowered and written with the same tensors, which are read once for it.
    """
    if not values.numel():
        return True
    if values.is_inference():  # whose changes are not counted
        least, greatest = _ends(values)
        return low <= least and greatest <= high
    version = version_of(values)
    known = _ENDS.get(values)  # type: ignore[no-untyped-call]
    if known is None or known[0] != version:
        known = _ENDS[values] = (version, *_ends(values))
    return bool(low <= known[1] and known[2] <= high)


def _ends(values: Tensor) -> tuple[float, float]:
    least, greatest = values.aminmax()
    return least.item(), greatest.item()


def float32(value: float) -> float:
    """``value`` rounded to the nearest float32, as a Python float; inf when it is too large."""
    try:
        rounded: float = _SINGLE.unpack(_SINGLE.pack(value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return rounded


def choose_qparams(low: Tensor | float, high: Tensor | float, spec: QuantSpec) -> QParams:
    """Quantization parameters under ``spec`` for values in [low, high].

    Args:
        low: smallest values: a number or 0-dim per tensor; (C,) per channel; (C, G) with groups.
        high: largest values, likewise.
        spec: dtype, bounds and scheme.

    Returns:
        Python numbers for a per-tensor spec, tensors on the device of ``low`` otherwise.
    """
    quant_min, quant_max = spec.bounds
    if not spec.per_channel and _is_wide(low):
        numbers = choose_numbers(
            float32(float(low)),
            float32(float(high)),
            quant_min,
            quant_max,
            symmetric=spec.symmetric,
            power_of_two=spec.power_of_two,
        )
        return QParams(*numbers, spec.dtype, quant_min, quant_max)
    low, high = (torch.as_tensor(end, dtype=torch.float32) for end in (low, high))
    scale, zero_point = scale_and_zero_point(low, high, spec)
    if not spec.per_channel:
        numbers = float(scale.item()), int(zero_point.item())
        return QParams(*numbers, spec.dtype, quant_min, quant_max)
    axis = spec.channel_axis
    return QParams(scale, zero_point, spec.dtype, quant_min, quant_max, axis, spec.group_size)


def scale_and_zero_point(low: Tensor, high: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """:func:`choose_qparams` as tensors, shaped as ``low``, without waiting for the device."""
    quant_min, quant_max = spec.bounds
    return ops.choose_qparams(
        low,
        high,
        quant_min=quant_min,
        quant_max=quant_max,
        symmetric=spec.symmetric,
        power_of_two=spec.power_of_two,
        offset=bool(spec.offset),
    )


def _is_wide(low: Tensor | float) -> bool:
    """Whether :func:`qfx.semantics.affine.choose_qparams` computes in float64, as Python does."""
    return not isinstance(low, Tensor) or low.device.type != "mps"


def choose_numbers(
    low: float,
    high: float,
    quant_min: int,
    quant_max: int,
    *,
    symmetric: bool = False,
    power_of_two: bool = False,
) -> tuple[float, int]:
    """:func:`~qfx.semantics.affine.choose_qparams` of one range, bit for bit, without tensors.

    A model that decodes asks for each layer, so that this has few calls.
    """
    if not math.isfinite(high - low):
        return math.nan, ops.middle_code(quant_min, quant_max)
    low, high = low if low < 0.0 else 0.0, high if high > 0.0 else 0.0
    steps = quant_max - quant_min
    if symmetric:
        scale = max(-low, high) / ops.half_steps(quant_min, quant_max)
    else:
        scale = high / steps - low / steps
    scale = float32(scale if scale > ops.MIN_SCALE else ops.MIN_SCALE) if scale > 0 else 1.0
    if power_of_two:
        scale = ops.next_power_of_two(scale)
    if symmetric:
        return scale, ops.middle_code(quant_min, quant_max)
    zero_point = quant_min - round(low / scale)
    if quant_min <= zero_point <= quant_max:
        return scale, zero_point
    return scale, quant_min if zero_point < quant_min else quant_max


def quantize_weight(weight: Tensor, spec: QuantSpec) -> tuple[Tensor, QParams]:
    """Quantize a constant weight with what the observer of ``spec`` sees in it.

    Args:
        weight: float tensor.
        spec: an integer weight spec; ``axis`` counts from 0 when it is None.

    Returns:
        Integers shaped as ``weight``, and their parameters.

    Raises:
        CalibrationError: the weight is empty or holds NaN or infinite values.
        ConfigError: the axis or group size does not fit the weight.
    """
    observer = spec.make_observer().to(weight.device)
    observer(weight.detach())
    qparams = observer.qparams()
    return qparams.quantize(weight.detach()), qparams
