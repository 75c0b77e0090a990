"""The arithmetic of :mod:`qfx_passes.accuracy.gptq`: from moments of inputs to codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from qfx.quant.qparams import QParams, quantize_weight
from qfx_passes.accuracy.code_descent import ScaledCodes, descend
from qfx_passes.accuracy.rounded_layers import Layer, Rounding
from qfx_passes.accuracy.second_moments import Moments, applied

_BLOCK = 128
_DIGITS = 1e-5  # of sums of products in float32


def rounded_by(layer: Layer, moments: Moments, *, damping: float, sweeps: int) -> Rounding:
    """The codes of a layer that moments lead to.

    Args:
        layer: which.
        moments: of what it reads.
        damping: l, and what is added to the diagonal of H, relative to its mean.
        sweeps: over the codes and scales, at most.
    """
    mixed, rounded = moments.about(means=layer.bias_is_free)
    added = damping * rounded.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    added = added + _DIGITS * moments.power()  # moments about means are no nearer than that
    added = added + lacking(rounded, added)
    for each in (mixed, rounded):
        each.diagonal(dim1=1, dim2=2).add_(added.unsqueeze(1))
    target = torch.linalg.solve(rounded, (layer.weight @ mixed).mT).mT
    integers, qparams = quantize_weight(layer.shaped(target), layer.spec)
    unit = layer.grouped(qparams.dequantize(torch.ones_like(integers)).double())
    codes = rounded_in_turn(target / unit, rounded, qparams.quant_min, qparams.quant_max)
    if sweeps:
        start = ScaledCodes(codes, unit)
        codes, qparams = _descended(layer, start, qparams, target, rounded, sweeps)
    return _with_bias(layer, layer.shaped(codes).to(integers.dtype), qparams, moments)


def lacking(moments: Tensor, added: Tensor) -> Tensor:
    """(G,) what (G, K, K) moments need on their diagonals, beside ``added``, to be definite.

    Next to nothing but rounding errors is left of values about large means: of those the smallest
    eigenvalue may be below zero.
    """
    damped = moments + torch.diag_embed(added.unsqueeze(1).expand(moments.shape[:2]))
    if not torch.linalg.cholesky_ex(damped).info.any():
        return torch.zeros_like(added)
    lowest: Tensor = torch.linalg.eigvalsh(damped)[:, 0]
    return -2 * lowest.clamp(max=0)


def _descended(
    layer: Layer,
    start: ScaledCodes,
    qparams: QParams,
    target: Tensor,
    damped: Tensor,
    sweeps: int,
) -> tuple[Tensor, QParams]:
    """Better codes, and scales where each output has its own."""
    bounds, scale = (qparams.quant_min, qparams.quant_max), qparams.scale
    if not isinstance(scale, Tensor) or qparams.axis != 0 or layer.spec.power_of_two:
        made = descend(start, target, damped, *bounds, sweeps=sweeps, moves_scales=False)
        return made.codes, qparams
    start = ScaledCodes(start.codes, scale.double().reshape(*start.codes.shape[:2], -1))
    made = descend(start, target, damped, *bounds, sweeps=sweeps)
    return made.codes, replace(qparams, scale=made.scales.reshape(scale.shape).to(scale.dtype))


def _with_bias(layer: Layer, integers: Tensor, qparams: QParams, moments: Moments) -> Rounding:
    """Codes, and the bias that makes up for what they are off on average."""
    weight = layer.grouped(qparams.dequantize(integers).double())
    exact, rounded = moments.means()
    by = applied(layer.weight, exact) - applied(weight, rounded)
    made_up = applied(layer.weight, exact - rounded)
    if not layer.bias_is_free:
        by, made_up = (torch.where(layer.bias == 0, 0.0, each) for each in (by, made_up))
    return Rounding(integers, qparams, weight, layer.bias + by, made_up)


def rounded_in_turn(weight: Tensor, moments: Tensor, low: int, high: int) -> Tensor:
    """(G, O, K) codes of a weight in units of its scales.

    Args:
        weight: (G, O, K) over the scales.
        moments: (G, K, K) H, damped.
        low: smallest code.
        high: largest code.
    """
    order = moments.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    across = order.unsqueeze(1).expand_as(weight)
    left = weight.gather(2, across)
    square = order.unsqueeze(2).expand_as(moments)
    moments = moments.gather(1, square).gather(2, square.mT)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    factor = torch.linalg.cholesky(inverse, upper=True)
    codes = torch.empty_like(left)
    for begin, end in _blocks(weight.shape[2]):
        errors = torch.empty_like(left[..., begin:end])
        for i in range(begin, end):
            column = left[..., i]
            codes[..., i] = column.round().clamp(low, high)
            errors[..., i - begin] = (column - codes[..., i]) / factor[:, i, i].unsqueeze(1)
            left[..., i:end] -= errors[..., i - begin, None] * factor[:, None, i, i:end]
        left[..., end:] -= errors @ factor[:, begin:end, end:]
    return torch.empty_like(codes).scatter_(2, across, codes)


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, size, _BLOCK):
        yield begin, min(begin + _BLOCK, size)
