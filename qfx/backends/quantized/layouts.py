"""Strides that mean one memory format, for kernels on quantized dtypes that look at it.

Where a size is 1, its stride says nothing: of (1, 4, 6, 6) with strides (4, 1, 24, 4), as views of
channels_last tensors have, ``is_contiguous(channels_last)`` is true and ``suggest_memory_format``
is contiguous. Pools and upsampling ask the first for their input and the second for their result,
and hand out garbage (torch 2.13); the others don't mind. :func:`tidy` gives such a tensor the
strides that ``torch.empty(..., memory_format=channels_last)`` has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from qfx.backends.base import Emit, Emitter, LoweringSite
from qfx.graph import meta
from qfx.quant.qparams import QParams
from qfx.quant.reference_form import Measured
from qfx.rewrite.pattern import Mismatch


def tidy(x: Tensor) -> Tensor:
    """``x``, or a view of it whose strides are those of channels_last, size 1 or not.

    Three dims are taken for (batch, channels, length), to which kernels add a height of 1.
    """
    if x.dim() == 4:  # for speed
        if not x.is_contiguous(memory_format=torch.channels_last):
            return x
        _, channels, height, width = x.shape
        row = width * channels
        strides = (height * row, 1, row, channels)
    elif x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d):
        _, channels, depth, height, width = x.shape
        row = width * channels
        strides = (depth * height * row, 1, height * row, row, channels)  # type: ignore[assignment]
    elif x.dim() == 3 and x.transpose(1, 2).is_contiguous():
        strides = (x.shape[1] * x.shape[2], 1, x.shape[1])  # type: ignore[assignment]
    else:
        return x
    return x if x.stride() == strides else x.as_strided(x.shape, strides)


def in_order(x: Tensor) -> Tensor:
    """``x``, or a view of it whose strides are those of contiguous tensors, size 1 or not.

    The quantized mean gives its result the format of its input, which a result of fewer dims can't
    have: an error where there is one channel, or one pixel.
    """
    if not x.is_contiguous():
        return x
    strides, pace = [], 1
    for size in reversed(x.shape):
        strides.append(pace)
        pace *= size
    return x.as_strided(x.shape, strides[::-1])


def contiguous(x: Tensor) -> Tensor:
    """``x`` in order, for what is wrong in other formats, or has no batch and so no other."""
    return in_order(x.contiguous())


def on_tidy(emit: Emit, dims: int = 0) -> Emit:
    """``emit`` on an input whose strides mean one format.

    Args:
        emit: writes a call of a kernel that looks at memory formats.
        dims: spatial dims of the operation; 0 where the input always has batch and channels.
    """

    def emit_on_tidy(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
        info = meta.tensor_info(_input(site)[0])
        unbatched = dims and info is not None and len(info.shape) == dims + 1
        return emit(em, _arranged(em, site, contiguous if unbatched else tidy))

    return emit_on_tidy


def on_contiguous(emit: Emit) -> Emit:
    """``emit`` on an input made :func:`contiguous`.

    Quantized group and instance norm on channels_last are right for few groups in a batch only:
    beyond, with 65 images of 16 groups and 8x8 pixels, say, they hand out garbage (torch 2.13).
    """

    def emit_on_contiguous(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
        return emit(em, _arranged(em, site, contiguous))

    return emit_on_contiguous


def in_order_op(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    """The operation itself on integers, :func:`in_order`."""
    return same_op(em, _arranged(em, site, in_order))


def contiguous_op(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    """The operation itself on integers, made :func:`contiguous`."""
    return same_op(em, _arranged(em, site, contiguous))


def _arranged(em: Emitter, site: LoweringSite, arrange: Callable[[Tensor], Tensor]) -> LoweringSite:
    """The site with its integer input arranged."""
    integers, qparams = _input(site)
    value = meta.value_of(integers)
    made = em.rw.call(arrange, integers, origins=(site.node,), value=value)
    operand: Any = site.arguments["input"]
    return replace(site, inputs={**site.inputs, operand: (made, qparams)})


def _input(site: LoweringSite) -> tuple[fx.Node, QParams | Measured]:
    operand = site.arguments["input"]
    assert isinstance(operand, fx.Node)
    return site.inputs[operand]


def same_op(em: Emitter, site: LoweringSite, **other: object) -> fx.Node | Mismatch:
    """The operation itself, on integers, with ``other`` attributes in place of its own."""
    node = site.node
    assert not isinstance(node.target, str)
    swap = {v: integers for v, (integers, _) in site.inputs.items()}
    args: Any = fx.map_arg(node.args, lambda v: swap.get(v, v))
    attributes: Any = {**node.kwargs, **other}
    kwargs = fx.map_arg(attributes, lambda v: swap.get(v, v))
    info = meta.tensor_info(node)
    assert info is not None
    lowered = em.rw.call(node.target, *args, origins=(node,), **kwargs)
    em.rw.values.restate(lowered, meta.TensorInfo(info.shape, torch.quint8))
    return lowered
