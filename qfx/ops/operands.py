"""Operands of tensor operations: codes beside the qparams that give them a meaning."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor

from qfx.errors import ConfigError
from qfx.quant.qparams import QParams
from qfx.semantics import affine

Params = QParams | tuple[Tensor | float, Tensor | int]
"""Qparams of a tensor: whole, or the scale and the zero point of codes of any value."""

P = ParamSpec("P")


def values(codes: Tensor, params: Params, name: str, axis: int = 0) -> Tensor:
    """The real numbers that ``codes`` stand for, float64 (float32 on devices that have no other).

    Args:
        codes: integer tensor of any shape.
        params: qparams of it.
        name: the parameter that holds ``codes``, for messages.
        axis: per-channel axis of pairs whose scales are (C,).

    Raises:
        ConfigError: ``codes`` holds no integers, or not those of ``params``.
    """
    if not isinstance(codes, Tensor):
        raise ConfigError(f"{name} must be an integer tensor of codes, not {type(codes).__name__}")
    if codes.is_floating_point() or codes.dtype == torch.bool or codes.is_complex():
        raise ConfigError(
            f"{name} holds {codes.dtype}, not the codes of a quantized tensor: make them with"
            " qfx.ops.quantize"
        )
    whole = qparams(params, codes.dtype, f"the qparams of {name}", axis)
    if whole.dtype != codes.dtype:
        raise ConfigError(
            f"{name} holds {codes.dtype}, but its qparams are those of {whole.dtype} codes"
        )
    return whole.dequantize(codes, _wide(codes))


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
    return qparams(out, dtype, "out_qparams").quantize(y)


def qparams(params: Params, dtype: torch.dtype, name: str, axis: int = 0) -> QParams:
    """Qparams as given, or those of a pair over all codes of ``dtype``."""
    if isinstance(params, QParams):
        return params
    if not isinstance(params, tuple) or len(params) != 2:
        raise ConfigError(f"{name} must be qfx.QParams or (scale, zero_point), not {params!r}")
    low, high = affine.code_bounds(dtype, None, None)
    scale, zero_point = params
    if isinstance(scale, Tensor) and scale.dim():
        zero = torch.as_tensor(zero_point, device=scale.device).to(torch.int32)
        return QParams(scale.float(), zero.expand_as(scale), dtype, low, high, axis)
    return QParams(float(scale), int(zero_point), dtype, low, high)


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
