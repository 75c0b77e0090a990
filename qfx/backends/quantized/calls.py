"""Calls of kernels on PyTorch's quantized dtypes whose arguments follow no pattern."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from qfx.backends.base import Emit, Emitter, LoweringSite
from qfx.backends.quantized import dtypes as q
from qfx.backends.quantized.layouts import contiguous_op, same_op
from qfx.graph import meta
from qfx.quant.qparams import QParams
from qfx.rewrite.pattern import Mismatch


def with_own_qparams(kernel: Callable[..., object], own: QParams) -> Emit:
    """Emits a kernel whose result has the qparams ``own``, whatever is asked for."""

    def emit(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
        asked = q.output_of(site)
        if (asked.scale, asked.zero_point) != (own.scale, own.zero_point):
            return Mismatch(
                "the kernel's scale is always {0}, and its group shares another", own.scale
            )
        return q.call(em, site, kernel, q.integer(site))

    return emit


def pad(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    """Padding; of volumes only in order, for what copies them knows no other format."""
    info = meta.tensor_info(site.node)
    is_volume = info is not None and len(info.shape) > 4
    return (contiguous_op if is_volume else same_op)(em, site)


# -- calls that no pattern covers -------------------------------------------------------------
def matmul(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    output = q.output_of(site)
    operands = (q.integer(site, "input"), q.integer(site, "other"))
    kernel = torch.ops.quantized.matmul.default
    return q.call(em, site, kernel, *operands, output.scale, output.zero_point)


def max_pool(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    """Pooling, with what it fills with (-inf, mostly) as near as a code comes."""
    if not site.arguments["spread"]:
        return same_op(em, site)
    operand, fill = site.arguments["input"], site.arguments["fill"]
    assert isinstance(operand, fx.Node)
    qparams = site.inputs[operand][1]
    assert isinstance(qparams, QParams)
    nearest = qparams.dequantize(qparams.quantize(torch.tensor(fill, dtype=torch.float32)))
    return same_op(em, site, fill=float(nearest))


def batch_norm(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    post, output = site.arguments["post"], q.output_of(site)
    ops = torch.ops.quantized
    kernel = ops.batch_norm_relu.default if post else ops.batch_norm.default
    names = ("weight", "bias", "running_mean", "running_var", "eps")
    values = [site.arguments[n] for n in names]
    return q.call(em, site, kernel, q.integer(site), *values, output.scale, output.zero_point)


def elu(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    output = q.output_of(site)
    tail = (output.scale, output.zero_point, site.arguments["alpha"])
    return q.call(em, site, torch.ops.quantized.elu.default, q.integer(site), *tail)


def leaky_relu(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    output = q.output_of(site)
    tail = (site.arguments["negative_slope"], False, output.scale, output.zero_point)
    return q.call(em, site, torch.ops.quantized.leaky_relu.default, q.integer(site), *tail)
