"""How far float results of kernels that round at run time, or only restore weights, may be off.

A kernel that measures its input rounds it to codes as the reference does, but for values midway
between two codes: there either is right. Each may move the result by one step times its weight:

    |z - y|  <=  relative * max|y| + |operation|(scale where x lies midway, |weights|)

Layers that feed roundings back step by step drift from the reference. What is asked of those is an
SQNR, and that the drift favours no direction: errors that grow with the value are none of rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from qfx.quant.reference_form import codes_of
from qfx.verification.outputs import agreement
from qfx.vocab import (
    DEQUANTIZE,
    EMBEDDING,
    EMBEDDING_BAG,
    QUANTIZE,
    UNPACK,
    OpDef,
    bound,
    is_op,
)

RELATIVE = 1e-3
"""How far a float result may be off, as a fraction of the largest in its row and channel."""

_PACKED_ROWS = 4 * torch.finfo(torch.float16).eps
"""The same for rows of 4-bit codes: kernels keep scale and bias in float16 beside each, off by half
its eps at most, of values up to twice the largest; sums of rows cancel to half of that."""

RECURRENT = 30.0
"""SQNR in dB that is asked of layers that feed roundings back, step by step."""

_MIDWAY = 1e-3
"""How near to the middle between two codes the last bit of a scale decides, in steps."""

_STEEPEST = 1.5
"""By how much what is fused behind an operation widens differences: hardswish does most."""

_SMALL = 1e-2
"""Rows and channels smaller than this part of the whole are measured with it: sums cancel."""

_DRIFT = 5e-3
"""What fraction of a value a recurrent layer may lose in one direction, beside chance."""

_CHANCE = 6.0
"""By how many standard deviations roundings may happen to favour one direction."""


def relative_error(kind: torch.dtype, operation: fx.Node | None = None) -> float:
    """What fraction of the largest value a result of this dtype, of ``operation``, may be off."""
    packed = operation is not None and _reads_packed_rows(operation)
    return max(RELATIVE, 2 * torch.finfo(kind).eps, _PACKED_ROWS if packed else 0.0)


def _reads_packed_rows(operation: fx.Node) -> bool:
    """Whether ``operation`` looks up rows of 4-bit codes."""
    if not is_op(operation, EMBEDDING, EMBEDDING_BAG):
        return False
    rows = [v.args[0] for v in operation.all_input_nodes if is_op(v, DEQUANTIZE)]
    return any(isinstance(codes, fx.Node) and is_op(codes, UNPACK) for codes in rows)


def rounded_inputs(operation: fx.Node) -> Iterator[fx.Node]:
    """The QUANTIZE of each operand of ``operation`` that is measured at run time."""
    for value in operation.all_input_nodes:
        codes = value.args[0] if is_op(value, DEQUANTIZE) else None
        if not isinstance(codes, fx.Node) or not is_op(codes, QUANTIZE):
            continue
        if isinstance(bound(codes)["scale"], fx.Node):
            yield codes


def allowance_reads(operation: fx.Node) -> tuple[fx.Node, ...]:
    """The nodes that :func:`midway_allowance` asks for."""
    sources = [n for codes in rounded_inputs(operation) for n in codes.all_input_nodes]
    return tuple(dict.fromkeys((*sources, *operation.all_input_nodes))) if sources else ()


def midway_allowance(operation: fx.Node, value_of: Callable[[fx.Node], object]) -> Tensor | float:
    """How far each result of ``operation`` may be off where its inputs lie between two codes."""
    assert isinstance(operation.target, OpDef)
    arguments = dict(bound(operation))
    neutral = {"post": (), "bias": None}
    arguments.update((name, value) for name, value in neutral.items() if name in arguments)
    allowed: Tensor | float = 0.0
    for codes in rounded_inputs(operation):

        def swap(node: fx.Node, codes: fx.Node = codes) -> Any:
            if node.args and node.args[0] is codes and is_op(node, DEQUANTIZE):
                return _midway(codes, value_of)
            value = value_of(node)
            return value.abs() if isinstance(value, Tensor) else value

        named: Any = fx.map_arg(arguments, swap)
        allowed = operation.target(**named) * _STEEPEST + allowed
    return allowed


def _midway(codes: fx.Node, value_of: Callable[[fx.Node], Any]) -> Tensor:
    """One step where a value lies midway between two codes, else nothing."""
    named = bound(codes)
    given, scale, zero_point = (value_of(named[k]) for k in ("input", "scale", "zero_point"))
    _, low, high = codes_of(codes)
    place = given.double() / float(scale) + int(zero_point)
    midway = _is_midway(place) & (place > low - 1) & (place < high + 1)
    smallest = given.amin().clamp(max=0.0).double() if given.numel() else given.new_zeros(())
    if bool(_is_midway(smallest / float(scale))):  # so that the zero point may be another
        midway |= (place < low + 1) | (place > high - 1)
    step: Tensor = midway.to(given.dtype) * float(scale)
    return step


def _is_midway(place: Tensor) -> Tensor:
    within: Tensor = (place - place.floor() - 0.5).abs() <= _MIDWAY
    return within


def off_in_part(value: Tensor, exact: Tensor, allowed: Tensor | float = 0.0) -> float:
    """The largest error beyond ``allowed``, as a fraction of the largest of its row or channel.

    The worse of the two; a row is all that differs in the last axis only, a channel what has the
    same place in some axis. NaN agrees with NaN, and infinities with themselves.
    """
    if value.shape != exact.shape:
        return torch.inf
    if value.numel() == 0 or torch.equal(value, exact):
        return 0.0
    exact, value = exact.detach().float(), value.detach().float()
    same = (exact == value) | (exact.isnan() & value.isnan())
    error = ((value - exact).abs() - allowed).clamp(min=0.0).masked_fill(same, 0.0)
    size = exact.abs().masked_fill(~exact.isfinite(), 0.0)
    error = error.nan_to_num_(nan=torch.inf, posinf=torch.inf)
    least = max(float(size.max()) * _SMALL, torch.finfo(torch.float32).tiny)
    largest = [size.amax(axes, keepdim=True) for axes in _parts(exact.dim())] or [size]
    return max(float((error / part.clamp(min=least)).max()) for part in largest)


def _parts(dims: int) -> Iterator[tuple[int, ...]]:
    """What to reduce for the size of rows, and of channels along each axis."""
    if dims:
        yield (dims - 1,)
    for axis in range(dims if dims > 1 else 0):
        yield tuple(other for other in range(dims) if other != axis)


def recurrent_detail(value: Tensor, exact: Tensor) -> str:
    """What is wrong with the result of a layer that feeds roundings back, or ""."""
    if value.shape != exact.shape:
        return "has another shape"
    agreed = agreement(exact, value)
    if agreed < RECURRENT:
        return f"agrees to {agreed:.1f} dB only"
    return "" if not exact.numel() else _drift(value.detach().double(), exact.detach().double())


def _drift(value: Tensor, exact: Tensor) -> str:
    """Whether all of ``value``, or a channel, is off in one direction by more than chance."""
    value, exact = (t.masked_fill(~exact.isfinite(), 0.0) for t in (value, exact))
    error, gain = _error_and_gain(value, exact, 1)
    deviation = float((error - gain * exact).square().mean().sqrt())
    for width in (1, exact.shape[-1] if exact.dim() > 1 else 1):
        _, gain = _error_and_gain(value, exact, width)
        chance = _CHANCE * deviation / exact.reshape(-1, width).norm(dim=0)
        beyond = (gain.abs() - _DRIFT - chance).nan_to_num(nan=0.0)
        if bool((beyond > 0).any()):
            return f"off by a factor of {1 + float(gain[beyond.argmax()]):.3g}"
    return ""


def _error_and_gain(value: Tensor, exact: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The error, and for each of ``width`` columns the share of the value in it."""
    error = value - exact
    columns, by = error.reshape(-1, width), exact.reshape(-1, width)
    return error, (columns * by).sum(0) / by.square().sum(0)
