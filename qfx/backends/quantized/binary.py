"""Sums and products of quantized tensors, of which either may broadcast.

The kernels allocate a result of the first operand's shape, and resize it to what the two broadcast
to, with a warning that this is deprecated. Batch sizes are known when a model runs, so operands
change places, or the first is expanded, then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_ops = torch.ops.quantized


def broadcast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The operands in an order, and of shapes, such that the first has the result's shape."""
    if a.shape == b.shape:
        return a, b
    shape = torch.broadcast_shapes(a.shape, b.shape)  # type: ignore[no-untyped-call]
    if a.shape == shape:
        return a, b
    return (b, a) if b.shape == shape else (a.expand(shape), b)


def add(a: Tensor, b: Tensor, scale: float, zero_point: int) -> Tensor:
    """``quantized::add``."""
    result: Tensor = _ops.add.default(*broadcast(a, b), scale, zero_point)
    return result


def add_relu(a: Tensor, b: Tensor, scale: float, zero_point: int) -> Tensor:
    """``quantized::add_relu``."""
    result: Tensor = _ops.add_relu.default(*broadcast(a, b), scale, zero_point)
    return result


def mul(a: Tensor, b: Tensor, scale: float, zero_point: int) -> Tensor:
    """``quantized::mul``."""
    result: Tensor = _ops.mul.default(*broadcast(a, b), scale, zero_point)
    return result


def mul_relu(a: Tensor, b: Tensor, scale: float, zero_point: int) -> Tensor:
    """``quantized::mul_relu``."""
    result: Tensor = _ops.mul_relu.default(*broadcast(a, b), scale, zero_point)
    return result


_FUNCTIONS: tuple[Callable[..., Tensor], ...] = (add, add_relu, mul, mul_relu)
BINARY: Mapping[str, Callable[..., Tensor]] = {f.__name__: f for f in _FUNCTIONS}
