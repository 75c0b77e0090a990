"""The arguments of oneDNN's kernels, by name and in the order in which they take them.

A kernel is called with the fields of :class:`Linear`, :class:`LinearAdd`, :class:`Conv` or
:class:`ConvAdd`, which are made of the parts above them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

Operand: TypeAlias = Any
"""A tensor or number, or in a graph the node that yields it."""


class Operands(NamedTuple):
    """What every kernel reads: codes and weight, each with scale and zero point."""

    x: Operand
    x_scale: Operand
    x_zero_point: Operand
    weight: Operand
    weight_scale: Operand
    weight_zero_point: Operand


class Geometry(NamedTuple):
    """How a convolution moves: a number per dim, and the number of groups."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


class Result(NamedTuple):
    """What is handed out; float32 wants to hear scale 1 and zero point 0."""

    scale: Operand
    zero_point: Operand
    dtype: torch.dtype


class PostOp(NamedTuple):
    """oneDNN's name of a post-op, its numbers, and how it is computed."""

    name: str | None = "none"
    numbers: Sequence[float] = ()
    algorithm: str = ""


NO_POST_OP = PostOp()


class Residual(NamedTuple):
    """What is added to the result: in place ("sum"), or a float32 tensor left as it is ("add")."""

    other: Operand
    scale: Operand
    zero_point: Operand
    how: str = "sum"


class Linear(NamedTuple):
    """Arguments of ``onednn.qlinear_pointwise.default``."""

    x: Operand
    x_scale: Operand
    x_zero_point: Operand
    weight: Operand
    weight_scale: Operand
    weight_zero_point: Operand
    bias: Operand
    scale: Operand
    zero_point: Operand
    dtype: Operand
    post: Operand
    numbers: Operand
    algorithm: Operand

    @classmethod
    def of(cls, read: Operands, bias: Operand, result: Result, post: PostOp) -> Linear:
        """The arguments in these parts."""
        return cls(*read, bias, *result, *_listed(post))


class LinearAdd(NamedTuple):
    """Arguments of ``onednn.qlinear_pointwise.binary``."""

    x: Operand
    x_scale: Operand
    x_zero_point: Operand
    weight: Operand
    weight_scale: Operand
    weight_zero_point: Operand
    other: Operand
    bias: Operand
    scale: Operand
    zero_point: Operand
    dtype: Operand
    other_scale: Operand
    other_zero_point: Operand
    how: Operand
    alpha: Operand
    post: Operand
    numbers: Operand
    algorithm: Operand

    @classmethod
    def of(
        cls, read: Operands, added: Residual, bias: Operand, result: Result, post: PostOp
    ) -> LinearAdd:
        """The arguments in these parts."""
        numbers = (added.scale, added.zero_point, added.how, 1.0)
        return cls(*read, added.other, bias, *result, *numbers, *_listed(post))


class Conv(NamedTuple):
    """Arguments of ``onednn.qconv*_pointwise.default``."""

    x: Operand
    x_scale: Operand
    x_zero_point: Operand
    weight: Operand
    weight_scale: Operand
    weight_zero_point: Operand
    bias: Operand
    stride: Operand
    padding: Operand
    dilation: Operand
    groups: Operand
    scale: Operand
    zero_point: Operand
    dtype: Operand
    post: Operand
    numbers: Operand
    algorithm: Operand

    @classmethod
    def of(
        cls, read: Operands, bias: Operand, geometry: Geometry, result: Result, post: PostOp
    ) -> Conv:
        """The arguments in these parts."""
        return cls(*read, bias, *geometry, *result, *_listed(post))


class ConvAdd(NamedTuple):
    """Arguments of ``onednn.qconv2d_pointwise.binary``."""

    x: Operand
    x_scale: Operand
    x_zero_point: Operand
    weight: Operand
    weight_scale: Operand
    weight_zero_point: Operand
    other: Operand
    bias: Operand
    stride: Operand
    padding: Operand
    dilation: Operand
    groups: Operand
    scale: Operand
    zero_point: Operand
    dtype: Operand
    other_scale: Operand
    other_zero_point: Operand
    how: Operand
    alpha: Operand
    post: Operand
    numbers: Operand
    algorithm: Operand

    @classmethod
    def of(
        cls, read: Operands, added: Residual, bias: Operand, geometry: Geometry, result: Result,
        post: PostOp,
    ) -> ConvAdd:  # fmt: skip
        """The arguments in these parts."""
        numbers = (added.scale, added.zero_point, added.how, 1.0)
        return cls(*read, added.other, bias, *geometry, *result, *numbers, *_listed(post))


def _listed(post: PostOp) -> PostOp:
    """As kernels take it: with its numbers in a list."""
    return post._replace(numbers=list(post.numbers))
