"""Shapes of what normalizes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from qfx.graph.meta import TensorInfo
from qfx.graph.shape_arithmetic import Told, fit, have


def batch_normed(
    input: TensorInfo,
    running_mean: TensorInfo,
    running_var: TensorInfo,
    weight: TensorInfo | None,
    bias: TensorInfo | None,
    eps: float,
) -> Told:
    operands = (running_mean, running_var, weight, bias)
    if not fit(input, *operands) or len(input.shape) < 2:
        return None
    return input if have(input.shape[1:2], *operands) else None


def layer_normed(
    input: TensorInfo,
    weight: TensorInfo | None,
    bias: TensorInfo | None,
    normalized_shape: Sequence[int],
    eps: float,
) -> Told:
    last = tuple(normalized_shape)
    if not fit(input, weight, bias) or not last or input.shape[-len(last) :] != last:
        return None
    return input if have(last, weight, bias) else None


def group_normed(
    input: TensorInfo,
    weight: TensorInfo | None,
    bias: TensorInfo | None,
    num_groups: int,
    eps: float,
) -> Told:
    if not fit(input, weight, bias) or len(input.shape) < 2 or type(num_groups) is not int:
        return None
    if num_groups < 1 or input.shape[1] % num_groups or input.numel <= num_groups:
        return None
    return input if have(input.shape[1:2], weight, bias) else None


def instance_normed(
    input: TensorInfo, weight: TensorInfo | None, bias: TensorInfo | None, eps: float
) -> Told:
    if not fit(input, weight, bias) or prod(input.shape[2:]) < 2:
        return None
    return input if have(input.shape[1:2], weight, bias) else None
