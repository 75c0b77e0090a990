"""Activations of a quantized tensor of any shape.

``relu``, ``relu6`` and ``clamp`` keep the qparams of their input; the others have a range of their
own, in ``out_qparams``, or give float32 without.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx.ops.operands import Params, result, values


def relu(input: Tensor, qparams: Params) -> Tensor:
    """``y = max(0, x)``, in the steps of ``input``."""
    return clamp(input, qparams, min=0.0)


def relu6(input: Tensor, qparams: Params) -> Tensor:
    """``y = min(max(0, x), 6)``, in the steps of ``input``."""
    return clamp(input, qparams, min=0.0, max=6.0)


def clamp(
    input: Tensor, qparams: Params, *, min: float | None = None, max: float | None = None
) -> Tensor:
    """``y = min(max(x, min), max)``, in the steps of ``input``; None is no bound."""
    return result(values(input, qparams, "input").clamp(min, max), qparams, input.dtype)


def leaky_relu(
    input: Tensor,
    qparams: Params,
    out_qparams: Params | None = None,
    *,
    negative_slope: float = 0.01,
) -> Tensor:
    """``y = max(0, x) + negative_slope * min(0, x)``."""
    return _apply(lambda x: F.leaky_relu(x, negative_slope), input, qparams, out_qparams)


def elu(
    input: Tensor, qparams: Params, out_qparams: Params | None = None, *, alpha: float = 1.0
) -> Tensor:
    """``y = max(0, x) + min(0, alpha * (exp(x) - 1))``."""
    return _apply(lambda x: F.elu(x, alpha), input, qparams, out_qparams)


def hardswish(input: Tensor, qparams: Params, out_qparams: Params | None = None) -> Tensor:
    """``y = x * min(max(0, x + 3), 6) / 6``."""
    return _apply(F.hardswish, input, qparams, out_qparams)


def gelu(input: Tensor, qparams: Params, out_qparams: Params | None = None) -> Tensor:
    """``y = x * Phi(x)``, with the normal distribution's cumulative function."""
    return _apply(F.gelu, input, qparams, out_qparams)


def sigmoid(input: Tensor, qparams: Params, out_qparams: Params | None = None) -> Tensor:
    """``y = 1 / (1 + exp(-x))``; uint8 codes of ``(1 / 256, 0)`` hold it best."""
    return _apply(torch.sigmoid, input, qparams, out_qparams)


def tanh(input: Tensor, qparams: Params, out_qparams: Params | None = None) -> Tensor:
    """Hyperbolic tangent; uint8 codes of ``(1 / 128, 128)`` hold it best."""
    return _apply(torch.tanh, input, qparams, out_qparams)


def softmax(
    input: Tensor, qparams: Params, out_qparams: Params | None = None, *, dim: int = -1
) -> Tensor:
    """``y = exp(x) / sum(exp(x))`` along ``dim``; uint8 codes of ``(1 / 256, 0)`` hold it best."""
    return _apply(lambda x: F.softmax(x, dim), input, qparams, out_qparams)


def _apply(
    function: Callable[[Tensor], Tensor], input: Tensor, qparams: Params, out: Params | None
) -> Tensor:
    return result(function(values(input, qparams, "input")), out, input.dtype)
