"""Arithmetic and activations: what is computed for each element, or along one dim."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx.semantics.post import Post, apply_post, post_op


def add(input: Tensor, other: Tensor | float, *, alpha: float = 1, post: Post = ()) -> Tensor:
    return apply_post(torch.add(input, other, alpha=alpha) if alpha != 1 else input + other, post)


def sub(input: Tensor, other: Tensor | float, *, alpha: float = 1) -> Tensor:
    return torch.sub(input, other, alpha=alpha) if alpha != 1 else input - other


def mul(input: Tensor, other: Tensor | float, *, post: Post = ()) -> Tensor:
    return apply_post(input * other, post)


def div(input: Tensor, other: Tensor | float, *, rounding_mode: str | None = None) -> Tensor:
    return (
        input / other
        if rounding_mode is None
        else torch.div(input, other, rounding_mode=rounding_mode)
    )


@post_op
def clamp(input: Tensor, *, min: float | None = None, max: float | None = None) -> Tensor:
    return torch.clamp(input, min, max)


@post_op
def relu(input: Tensor) -> Tensor:
    return F.relu(input)


@post_op
def leaky_relu(input: Tensor, *, negative_slope: float = 0.01) -> Tensor:
    return F.leaky_relu(input, negative_slope)


def elu(input: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(input, alpha)


@post_op
def hardswish(input: Tensor) -> Tensor:
    return F.hardswish(input)


@post_op
def silu(input: Tensor) -> Tensor:
    return F.silu(input)


@post_op
def gelu(input: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(input, approximate=approximate)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    return F.prelu(input, weight)


@post_op
def sigmoid(input: Tensor) -> Tensor:
    return torch.sigmoid(input)


@post_op
def hardsigmoid(input: Tensor) -> Tensor:
    return F.hardsigmoid(input)


@post_op
def tanh(input: Tensor) -> Tensor:
    return torch.tanh(input)


def mish(input: Tensor) -> Tensor:
    return F.mish(input)


def selu(input: Tensor) -> Tensor:
    return F.selu(input)


def celu(input: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(input, alpha)


def softplus(input: Tensor, *, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    return F.softplus(input, beta, threshold)


def softsign(input: Tensor) -> Tensor:
    return F.softsign(input)


def logsigmoid(input: Tensor) -> Tensor:
    return F.logsigmoid(input)


def hardshrink(input: Tensor, *, lambd: float = 0.5) -> Tensor:
    return F.hardshrink(input, lambd)


def softshrink(input: Tensor, *, lambd: float = 0.5) -> Tensor:
    return F.softshrink(input, lambd)


def tanhshrink(input: Tensor) -> Tensor:
    return F.tanhshrink(input)


def threshold(input: Tensor, *, threshold: float, value: float) -> Tensor:
    return F.threshold(input, threshold, value)


def glu(input: Tensor, *, dim: int = -1) -> Tensor:
    """One half along ``dim`` times the sigmoid of the other."""
    return F.glu(input, dim)


def softmax(input: Tensor, *, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.softmax(input, dim, dtype)


def log_softmax(input: Tensor, *, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.log_softmax(input, dim, dtype)


def cast(input: Tensor, *, dtype: torch.dtype) -> Tensor:
    """``input`` in another dtype."""
    return input.to(dtype)
