"""Transposed convolutions that fbgemm's own kernel gets wrong, as convolutions of their phases.

For some geometries fbgemm has a "direct" kernel, which gives garbage for more than one row (torch
2.13, AVX-512): 2-d, kernels two rows high, stride 1 or 2, no padding, no dilation, no groups, and
numbers of channels, in and out, that 8 divides. That is the upsampling of a U-Net. What is left of
it by :mod:`~qfx.backends.x86_transpose` is a convolution, which is right, and faster than fbgemm's
other kernels.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import fx

from qfx.backends import quantized_dtypes as q
from qfx.backends import x86_transpose as transpose
from qfx.backends.base import Emit, Emitter, Site
from qfx.backends.quantized_engine import engine
from qfx.backends.quantized_room import per_dim
from qfx.rewrite.pattern import Mismatch

_ops = torch.ops.quantized


def takes_direct_kernel(site: Site) -> bool:
    """Whether fbgemm would run its direct kernel, whatever the stride."""
    assert site.weight is not None
    inputs, outputs, height, _ = site.weight.integers.shape
    padding, dilation = (per_dim(site.arguments[n], 2) for n in ("padding", "dilation"))
    plain = padding == [0, 0] and dilation == [1, 1] and site.arguments["groups"] == 1
    return plain and height == 2 and inputs % 8 == outputs % 8 == 0


def around_direct_kernel(emit: Emit) -> Emit:
    """``emit``, but phases woven together for what would take fbgemm's direct kernel."""

    def emit_around(em: Emitter, site: Site) -> fx.Node | Mismatch:
        return _woven(em, site) if takes_direct_kernel(site) else emit(em, site)

    return emit_around


def _woven(em: Emitter, site: Site) -> fx.Node:
    assert site.weight is not None
    weight, output = site.weight, q.output_of(site)
    kernel = weight.integers.shape[2:]
    stride, start, extra = (
        per_dim(site.arguments[n], 2) for n in ("stride", "padding", "output_padding")
    )
    taps = transpose.phase_taps(kernel, stride, start, extra)
    end = transpose.trim(kernel, stride, start, extra, taps)

    def recipe() -> object:
        phases = transpose.phase_weight(weight.integers, stride, taps, 1)
        bias = None if site.bias is None else site.bias.repeat_interleave(prod(stride))
        integers = q.quantized_weight(replace(weight, integers=phases))
        with engine("x86"):
            return _ops.conv2d_prepack(integers, bias, [1, 1], [j - 1 for j in taps], [1, 1], 1)

    bias: Any = site.arguments.get("bias")
    name = bias.target if isinstance(bias, fx.Node) else None
    packed = em.packed(("phases", weight.name, name, str(stride), str(taps)), recipe)
    y = q.call(em, site, _ops.conv2d.new, q.integer(site), packed, output.scale, output.zero_point)
    post: Any = site.arguments["post"]
    y = q.clamped(em, site, y, post[0]) if post else y
    return q.call(em, site, transpose.weave, y, stride, start, end)
