"""The arguments of oneDNN's kernels, by name and in the order in which they take them.

A kernel is called with the fields of :class:`Linear`, :class:`LinearAdd`, :class:`Conv` or
:class:`ConvAdd`, which are made of the parts above them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

KernelOperand: TypeAlias = Any
"""A tensor or number, or in a graph the node that yields it."""


class Operands(NamedTuple):
    """What every kernel reads: codes and weight, each with scale and zero point."""

    x: KernelOperand
    x_scale: KernelOperand
    x_zero_point: KernelOperand
    weight: KernelOperand
    weight_scale: KernelOperand
    weight_zero_point: KernelOperand


class Geometry(NamedTuple):
    """How a convolution moves: a number per dim, and the number of groups."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


class OutputFormat(NamedTuple):
    """What is handed out; float32 wants to hear scale 1 and zero point 0."""

    scale: KernelOperand
    zero_point: KernelOperand
    dtype: torch.dtype


class OnednnPostOp(NamedTuple):
    """oneDNN's name of a post-op, its numbers, and how it is computed."""

    name: str | None = "none"
    numbers: Sequence[float] = ()
    algorithm: str = ""


NO_POST_OP = OnednnPostOp()


class Residual(NamedTuple):
    """What is added to the result: in place ("sum"), or a float32 tensor left as it is ("add")."""

    other: KernelOperand
    scale: KernelOperand
    zero_point: KernelOperand
    how: str = "sum"


class Linear(NamedTuple):
    """Arguments of ``onednn.qlinear_pointwise.default``."""

    x: KernelOperand
    x_scale: KernelOperand
    x_zero_point: KernelOperand
    weight: KernelOperand
    weight_scale: KernelOperand
    weight_zero_point: KernelOperand
    bias: KernelOperand
    scale: KernelOperand
    zero_point: KernelOperand
    dtype: KernelOperand
    post: KernelOperand
    numbers: KernelOperand
    algorithm: KernelOperand

    @classmethod
    def of(
        cls, read: Operands, bias: KernelOperand, result: OutputFormat, post: OnednnPostOp
    ) -> Linear:
        """The arguments in these parts."""
        return cls(*read, bias, *result, *_listed(post))


class LinearAdd(NamedTuple):
    """Arguments of ``onednn.qlinear_pointwise.binary``."""

    x: KernelOperand
    x_scale: KernelOperand
    x_zero_point: KernelOperand
    weight: KernelOperand
    weight_scale: KernelOperand
    weight_zero_point: KernelOperand
    other: KernelOperand
    bias: KernelOperand
    scale: KernelOperand
    zero_point: KernelOperand
    dtype: KernelOperand
    other_scale: KernelOperand
    other_zero_point: KernelOperand
    how: KernelOperand
    alpha: KernelOperand
    post: KernelOperand
    numbers: KernelOperand
    algorithm: KernelOperand

    @classmethod
    def of(
        cls,
        read: Operands,
        added: Residual,
        bias: KernelOperand,
        result: OutputFormat,
        post: OnednnPostOp,
    ) -> LinearAdd:
        """The arguments in these parts."""
        numbers = (added.scale, added.zero_point, added.how, 1.0)
        return cls(*read, added.other, bias, *result, *numbers, *_listed(post))


class Conv(NamedTuple):
    """Arguments of ``onednn.qconv*_pointwise.default``."""

    x: KernelOperand
    x_scale: KernelOperand
    x_zero_point: KernelOperand
    weight: KernelOperand
    weight_scale: KernelOperand
    weight_zero_point: KernelOperand
    bias: KernelOperand
    stride: KernelOperand
    padding: KernelOperand
    dilation: KernelOperand
    groups: KernelOperand
    scale: KernelOperand
    zero_point: KernelOperand
    dtype: KernelOperand
    post: KernelOperand
    numbers: KernelOperand
    algorithm: KernelOperand

    @classmethod
    def of(
        cls,
        read: Operands,
        bias: KernelOperand,
        geometry: Geometry,
        result: OutputFormat,
        post: OnednnPostOp,
    ) -> Conv:
        """The arguments in these parts."""
        return cls(*read, bias, *geometry, *result, *_listed(post))


class ConvAdd(NamedTuple):
    """Arguments of ``onednn.qconv2d_pointwise.binary``."""

    x: KernelOperand
    x_scale: KernelOperand
    x_zero_point: KernelOperand
    weight: KernelOperand
    weight_scale: KernelOperand
    weight_zero_point: KernelOperand
    other: KernelOperand
    bias: KernelOperand
    stride: KernelOperand
    padding: KernelOperand
    dilation: KernelOperand
    groups: KernelOperand
    scale: KernelOperand
    zero_point: KernelOperand
    dtype: KernelOperand
    other_scale: KernelOperand
    other_zero_point: KernelOperand
    how: KernelOperand
    alpha: KernelOperand
    post: KernelOperand
    numbers: KernelOperand
    algorithm: KernelOperand

    @classmethod
    def of(
        cls,
        read: Operands,
        added: Residual,
        bias: KernelOperand,
        geometry: Geometry,
        result: OutputFormat,
        post: OnednnPostOp,
    ) -> ConvAdd:
        """The arguments in these parts."""
        numbers = (added.scale, added.zero_point, added.how, 1.0)
        return cls(*read, added.other, bias, *geometry, *result, *numbers, *_listed(post))


def _listed(post: OnednnPostOp) -> OnednnPostOp:
    """As kernels take it: with its numbers in a list."""
    return post._replace(numbers=list(post.numbers))
