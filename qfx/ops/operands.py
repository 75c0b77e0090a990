"""Operands of tensor operations: codes beside the qparams that give them a meaning."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from numbers import Real
from typing import ParamSpec

import torch
from torch import Tensor

from qfx.errors import ConfigError
from qfx.quant.qparams import QParams
from qfx.semantics import affine

Params = QParams | tuple[Tensor | float, Tensor | int]
"""Qparams of a tensor: whole, or the scale and the zero point of codes of any value."""

_NO_RECIPROCAL = 2.0**-128
"""The largest scale whose reciprocal is infinite in float32."""

P = ParamSpec("P")


DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32)


def values(codes: Tensor, params: Params, name: str, axis: int = 0) -> Tensor:
    """The real numbers that ``codes`` stand for, float64 (float32 on devices that have no other).

    Args:
        codes: integer tensor of any shape.
        params: qparams of it.
        name: the parameter that holds ``codes``, for messages.
        axis: per-channel axis of pairs whose scales are (C,).

    Raises:
        ConfigError: ``codes`` holds no integers, or not those of ``params``, or there are not as
            many of these as it has channels.
    """
    check_codes(codes, name)
    whole = qparams(params, codes.dtype, f"the qparams of {name}", axis)
    if whole.dtype != codes.dtype:
        raise ConfigError(
            f"{name} holds {codes.dtype}, but its qparams are those of {whole.dtype} codes"
        )
    return fitting(codes, whole).dequantize(codes, _wide(codes))


def result(y: Tensor, out: Params | None, dtype: torch.dtype, *, relu: bool = False) -> Tensor:
    """Quantize what an operation computed, to codes of ``dtype`` where ``out`` does not say.

    Args:
        y: real numbers.
        out: qparams of the result; None: the float32 numbers themselves.
        dtype: that of the first operand.
        relu: whether negative numbers become 0.0 first.
    """
    y = y.relu() if relu else y
    if out is None:
        return y.to(torch.float32)
    return codes_of(y, qparams(out, dtype, "out_qparams"))


def codes_of(values: Tensor, params: QParams) -> Tensor:
    """The codes of float values; ConfigError for a scale whose reciprocal is no float32."""
    smallest = float(torch.as_tensor(params.scale).min()) if _has_numbers(params.scale) else 1.0
    if smallest <= _NO_RECIPROCAL:
        raise ConfigError(
            f"a scale of {smallest:.6g} is too small to quantize with: what values are multiplied "
            f"by, 1 / scale, is beyond float32 for scales up to 2**-128 ({_NO_RECIPROCAL:.6g})"
        )
    return params.quantize(values)


def _has_numbers(scale: Tensor | float) -> bool:
    return not isinstance(scale, Tensor) or scale.numel() > 0


def check_codes(codes: object, name: str) -> None:
    """ConfigError unless ``codes`` is a plain integer tensor."""
    if not isinstance(codes, Tensor):
        raise ConfigError(f"{name} must be an integer tensor of codes, not {type(codes).__name__}")
    if codes.is_quantized:
        raise ConfigError(f"{name} is a {codes.dtype} tensor: give its codes, {name}.int_repr()")
    if codes.dtype not in DTYPES:
        raise ConfigError(
            f"{name} holds {codes.dtype}, not the codes of a quantized tensor: make them with"
            " qfx.ops.quantize"
        )


def check_floats(input: object, name: str = "input") -> None:
    """ConfigError unless ``input`` is a plain float tensor."""
    if not isinstance(input, Tensor):
        raise ConfigError(f"{name} must be a float tensor, not {type(input).__name__}")
    if input.is_quantized:
        raise ConfigError(f"{name} is a {input.dtype} tensor: give {name}.dequantize()")
    if not input.is_floating_point():
        raise ConfigError(f"{name} holds {input.dtype}: what is quantized are float tensors")


def check_dtype(dtype: object) -> None:
    """ConfigError unless ``dtype`` is one that holds codes."""
    if dtype not in DTYPES:
        names = ", ".join(map(str, DTYPES))
        raise ConfigError(f"dtype={dtype!r} holds no codes; choose one of {names}")


def qparams(
    params: Params,
    dtype: torch.dtype,
    name: str,
    axis: int | None = 0,
    *,
    bounds: tuple[int | None, int | None] = (None, None),
    group_size: int | None = None,
) -> QParams:
    """Qparams as given, or those of a pair over the codes of ``dtype`` within ``bounds``."""
    if isinstance(params, QParams):
        return params
    if not isinstance(params, (tuple, list)) or len(params) != 2:
        raise ConfigError(f"{name} must be qfx.QParams or (scale, zero_point), not {_told(params)}")
    low, high = affine.code_bounds(dtype, *bounds)
    scale, zero_point = params
    if isinstance(scale, Tensor) and scale.dim():
        if axis is None:
            raise ConfigError(f"{name} have a scale a channel, {_told(scale)}: give axis=")
        zero = torch.as_tensor(zero_point, device=scale.device)
        zero = zero if zero.is_floating_point() and (zero % 1).any() else zero.to(torch.int32)
        zero = zero.expand_as(scale)
        return QParams(scale.float(), zero, dtype, low, high, axis, group_size)
    step, code = _number(scale, f"scale of {name}"), _number(zero_point, f"zero point of {name}")
    if code % 1:
        raise ConfigError(f"the zero point of {name} must be an integer, not {code}")
    return QParams(step, int(code), dtype, low, high)


def fitting(input: Tensor, params: QParams) -> QParams:
    """The qparams; ConfigError unless there is one for each place along their axis of ``input``."""
    axis = params.axis
    if axis is not None and axis >= input.dim():
        raise ConfigError(f"axis={axis} is no dim of a tensor of shape {tuple(input.shape)}")
    channels = len(params.scale) if isinstance(params.scale, Tensor) else None
    if channels is not None and axis is not None and channels != input.shape[axis]:
        raise ConfigError(
            f"{channels} scales do not fit the {input.shape[axis]} channels along axis={axis} of a"
            f" tensor of shape {tuple(input.shape)}"
        )
    return params


def _number(value: object, name: str) -> float:
    is_number = isinstance(value, Tensor) and not value.dim() and not value.is_complex()
    if not is_number and not isinstance(value, Real):
        raise ConfigError(f"the {name} must be a number or a tensor, not {_told(value)}")
    return float(value)  # type: ignore[arg-type]  # of a tensor without dims, too


def _told(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return repr(value) if isinstance(value, (int, float, str, tuple)) else type(value).__name__


def rectified(operation: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """The twin of an operation that takes ``relu``, with ``relu=True``."""
    name = operation.__name__

    @wraps(operation)
    def twin(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        kwargs["relu"] = True
        return operation(*args, **kwargs)

    twin.__name__ = twin.__qualname__ = f"{name}_relu"
    twin.__doc__ = f"As :func:`qfx.ops.{name}`, with ``max(0, y)`` before the result is rounded."
    return twin


def _wide(codes: Tensor) -> torch.dtype:
    return torch.float32 if codes.device.type == "mps" else torch.float64
