"""What calls of oneDNN's kernels on plain tensors are made of (``torch.ops.onednn.*``).

Activations are uint8, weights int8 and symmetric. A kernel computes, in real units,

    y = post(x_scale * w_scale * sum((x - x_zp) * w) + bias)        q = clamp(round(y / scale) + zp)

and hands out uint8, or y itself as float32. relu and clamp cost nothing where saturation does them
(:func:`~qfx.backends.base.saturates`).

The "sum" post-op adds a residual in place: it overwrites the residual, which is cloned first; see
:mod:`qfx.backends.onednn.reuse_accumulators`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from qfx.backends.base import Emitter, LoweringSite, saturates
from qfx.backends.onednn import kernels
from qfx.backends.onednn.arguments import NO_POST_OP, OnednnPostOp, OutputFormat
from qfx.backends.onednn.memory import COPIES
from qfx.graph import meta
from qfx.quant.qparams import QParams
from qfx.quant.reference_form import Measured, QuantizedWeight
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import bounds_of_post_op

FLOAT = QParams(1.0, 0, torch.uint8, 0, 255)
"""The qparams that kernels want to hear for a float result."""

PostOpStep = tuple[Any, ...]
"""A post-op: its name and its numbers."""


def input_of(site: LoweringSite, name: str = "input") -> tuple[fx.Node, QParams | Measured]:
    """The integer node of an operand and its qparams."""
    operand = site.arguments[name]
    assert isinstance(operand, fx.Node)
    return site.inputs[operand]


def known_input(site: LoweringSite) -> tuple[fx.Node, QParams]:
    """As :func:`input_of`, for operations that take no measured qparams."""
    qx, x = input_of(site)
    assert isinstance(x, QParams)
    return qx, x


def call(em: Emitter, site: LoweringSite, kernel: Any, *args: Any) -> fx.Node:
    """A call of ``kernel`` that yields what the site yields, in its output dtype."""
    info = meta.tensor_info(site.node)
    assert info is not None
    dtype = torch.float32 if site.output is None else site.output.dtype
    return em.rw.call(kernel, *args, origins=(site.node,), value=meta.TensorInfo(info.shape, dtype))


def accumulator_of(
    em: Emitter, site: LoweringSite, residual: fx.Node, kernel: object, *, in_place: bool
) -> tuple[fx.Node, QParams | Measured] | Mismatch:
    """What ``kernel`` adds to, and its qparams: a copy of the residual, if it adds ``in_place``.

    Which copies are not needed, the pass reuse-accumulators finds.
    """
    if site.output is not None and residual not in site.inputs:
        return Mismatch("the residual is not at hand in integers")
    added, qparams = (residual, FLOAT) if site.output is None else site.inputs[residual]
    if in_place:
        value = meta.value_of(added)
        added = em.rw.call(COPIES[kernel], added, origins=(site.node,), value=value)
    return added, qparams


def output_of(site: LoweringSite) -> OutputFormat:
    """What a kernel is to hand out."""
    output = site.output or FLOAT
    dtype = torch.float32 if site.output is None else output.dtype
    return OutputFormat(output.scale, output.zero_point, dtype)


def weight_of(site: LoweringSite) -> QuantizedWeight:
    """The weight of a layer, which has one."""
    assert site.weight is not None
    return site.weight


def weight_qparams(em: Emitter, weight: QuantizedWeight) -> tuple[fx.Node, fx.Node]:
    """Scale and zero point as tensors: per tensor, they are one-element constants."""
    if isinstance(weight.scale, fx.Node) and isinstance(weight.zero_point, fx.Node):
        return weight.scale, weight.zero_point
    scale, zero = (
        torch.tensor([weight.scale], dtype=torch.float32),
        torch.tensor([weight.zero_point]),
    )
    return (
        em.packed((weight.name, "scale"), lambda: scale.to(torch.float32)),
        em.packed((weight.name, "zero_point"), lambda: zero.to(torch.int8)),
    )


def shape_of(node: fx.Node) -> list[int]:
    """The shape of a tensor as captured."""
    info = meta.tensor_info(node)
    assert info is not None
    return list(info.shape)


def post_of(site: LoweringSite) -> tuple[fx.Node | None, PostOpStep | None]:
    """The residual, and the activation after it."""
    post: Any = site.arguments["post"]
    residual = post[0][1] if post and post[0][0] == "add" else None
    rest = post[1:] if residual is not None else post
    return residual, (rest[0] if rest else None)


def is_free(site: LoweringSite, unary: PostOpStep | None) -> bool:
    """Whether saturation does the activation."""
    if site.output is None or unary is None or unary[0] not in ("relu", "clamp"):
        return False
    return saturates(site.output, *bounds_of_post_op(unary))


def attributes(site: LoweringSite, unary: PostOpStep | None) -> OnednnPostOp:
    """A unary post-op, as kernels take it."""
    if unary is None or is_free(site, unary):
        return NO_POST_OP
    name, *scalars = unary
    if name == "gelu":
        return OnednnPostOp("gelu", (), scalars[0] if scalars else "none")
    if name == "clamp":
        far = torch.finfo(torch.float32).max
        low, high = scalars
        scalars = [-far if low is None else low, far if high is None else high]
    return OnednnPostOp(kernels.POST_OP_NAMES[name], tuple(scalars))


def expand(value: Any, dims: int) -> list[int]:
    """A number per dim, where one may stand for all."""
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values
