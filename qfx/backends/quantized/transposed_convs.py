"""Transposed convolutions on quantized dtypes, as convolutions of their phases.

The engines' own kernels compute every product with the zeros that a stride puts between inputs
(one core, torch 2.13: up to 54 times as slow as float, 1.5 to 18 for the usual upsampling by 2),
and some are wrong: fbgemm's "direct" kernel for two rows, qnnpack's for groups and in 3d. What is
left of them by :mod:`~qfx.backends.onednn.transposed_convs` is a convolution, which is exact, and
takes 0.1 to 3 times as long as float.

Dilated ones have no such phases, and those of depthwise ones are convolutions with several outputs
for each input channel, which no engine has a fast kernel for: both stay float, by their geometry.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from qfx.backends.base import Emit, Emitter, LoweringSite
from qfx.backends.onednn import transposed_convs as transpose
from qfx.backends.onednn.conv_forms import phases
from qfx.backends.onednn.overhang import least_sizes
from qfx.backends.packing_engine import engine
from qfx.backends.probing.slow_geometries import TooSlow
from qfx.backends.quantized import dtypes as q
from qfx.backends.quantized.overhang import per_dim, roomy_conv
from qfx.backends.quantized.verified_convs import is_wrong
from qfx.quant.reference_form import QuantizedWeight
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import bound

_ops = torch.ops.quantized


def takes_phases(node: fx.Node) -> Mismatch | None:
    """Refuse transposed convolutions whose kernels are slower than float by multiples."""
    arguments, call = bound(node), phases(node)
    dilation = arguments["dilation"]
    if any(d != 1 for d in ([dilation] if isinstance(dilation, int) else dilation)):
        return TooSlow("dilated transposed convolutions (dilation {0})", dilation)
    if call is not None and call.groups > 1 and call.weight[1] == 1:
        return TooSlow("transposed convolutions of one channel a group ({0} groups)", call.groups)
    return None


def woven(packing: str, dims: int) -> Emit:
    """Emits the convolution of the phases, packed for an engine, and weaves them together."""
    name = f"conv{dims}d"

    def emit(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
        output = q.output_of(site)
        kernel = site.weight.integers.shape[2:]  # type: ignore[union-attr]
        stride, start, extra = (
            per_dim(site.arguments[n], dims) for n in ("stride", "padding", "output_padding")
        )
        taps = transpose.phase_taps(kernel, stride, start, extra)
        end = transpose.trim(kernel, stride, start, extra, taps)
        call = phases(site.node)
        wrong = call is not None and is_wrong(call, site.node, packing)
        packed = _packed(em, site, "fbgemm" if wrong else packing, stride, taps)
        args = (q.integer(site), packed, output.scale, output.zero_point)
        ones = [1] * dims
        least = least_sizes(taps, ones, [j - 1 for j in taps], ones)
        if least:
            room: dict[str, Any] = {"stride": ones, "least": least, "outer": []}
            y = q.call(em, site, roomy_conv, *args, name=name, **room)
        else:
            y = q.call(em, site, q.overload(name), *args)
        post: Any = site.arguments["post"]
        y = q.clamped(em, site, y, post[0]) if post else y
        return q.call(em, site, transpose.weave, y, stride, start, end)

    return emit


def _packed(
    em: Emitter, site: LoweringSite, packing: str, stride: list[int], taps: list[int]
) -> fx.Node:
    assert site.weight is not None
    weight, groups = site.weight, site.arguments["groups"]
    assert isinstance(groups, int)
    prepack = getattr(_ops, f"conv{len(stride)}d_prepack")
    ones, reach = [1] * len(stride), [j - 1 for j in taps]

    def recipe() -> object:
        bias = None if site.bias is None else site.bias.detach().repeat_interleave(prod(stride))
        integers = q.quantized_weight(_phases(weight, stride, taps, groups))
        with engine(packing):
            return prepack(integers, bias, ones, reach, ones, groups)

    bias: Any = site.arguments.get("bias")
    name = bias.target if isinstance(bias, fx.Node) else None
    return em.packed(("phases", packing, weight.name, name, str(stride), str(taps)), recipe)


def _phases(
    weight: QuantizedWeight, stride: list[int], taps: list[int], groups: int
) -> QuantizedWeight:
    """The weight whose output channels are the phases, with their scales."""
    codes = transpose.phase_weight(weight.integers, stride, taps, groups)
    qparams = weight.qparams
    if not isinstance(qparams.scale, Tensor) or not isinstance(qparams.zero_point, Tensor):
        return replace(weight, integers=codes)
    scale, zero = (
        v.repeat(groups).repeat_interleave(prod(stride))
        for v in (qparams.scale, qparams.zero_point)
    )
    return replace(
        weight, integers=codes, qparams=replace(qparams, scale=scale, zero_point=zero, axis=0)
    )
