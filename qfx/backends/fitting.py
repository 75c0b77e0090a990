"""Whether specs fit a kernel, and the weight spec that a kernel makes of what was asked.

Integer kernels take one scheme: uint8 activations per tensor, int8 symmetric weights per tensor or
per output channel. The reference form takes any.
"""

from __future__ import annotations

import torch
from torch import fx

from qfx.backends.base import Backend, KernelRule, WeightRule
from qfx.graph import meta
from qfx.quant.spec import QConfig, QuantSpec
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import bound


def unfit(qconfig: QConfig, row: KernelRule, backend: Backend) -> Mismatch | None:
    """Why the kernel of ``row`` can't honour ``qconfig``, or None."""
    activation, weight, rule = qconfig.activation, qconfig.weight, row.weight
    if qconfig.method not in row.methods:
        text = "{0} is not quantized in the way that its QConfig asks for ({1}), only: {2}"
        return Mismatch(text, row.kernel, qconfig.method, ", ".join(row.methods))
    if activation is not None and activation.per_channel:
        return Mismatch("activations are quantized per tensor")
    if rule is not None and weight is None:
        return Mismatch("its QConfig has no weight spec")
    if backend.quantize is None:
        return None
    if activation is not None and activation.dtype != torch.uint8:
        return Mismatch(
            "kernels of {0} take uint8 activations, not {1}", backend.name, activation.dtype
        )
    if rule is None or weight is None:
        return None
    if weight.dtype != torch.int8 or not weight.symmetric or weight.group_size is not None:
        return Mismatch("kernels of {0} take symmetric int8 weights, not {1}", backend.name, weight)
    if weight.axis not in (None, rule.axis):
        text = "its kernel takes a weight scale per output channel (axis {0}), not axis {1}"
        return Mismatch(text, rule.axis, weight.axis)
    return None


def settled_weight(spec: QuantSpec, rule: WeightRule) -> QuantSpec:
    """``spec`` with the operation's channel axis, or per tensor where the kernel takes no more."""
    if not spec.per_channel:
        return spec
    if not rule.per_channel:
        low, high = spec.bounds
        return QuantSpec(spec.dtype, symmetric=spec.symmetric, quant_min=low, quant_max=high)
    if spec.axis is not None:
        return spec
    return QuantSpec(
        spec.dtype,
        symmetric=spec.symmetric,
        per_channel=True,
        observer=spec.observer,
        axis=rule.axis,
        group_size=spec.group_size,
        quant_min=spec.quant_min,
        quant_max=spec.quant_max,
    )


def too_flat(node: fx.Node) -> Mismatch | None:
    """Why a kernel that wants a batch dimension can't take the input of a layer, or None."""
    arguments = bound(node)
    if "weight" not in arguments:  # recurrent layers run without one
        return None
    info, weight = meta.tensor_info(arguments["input"]), meta.tensor_info(arguments["weight"])
    if info is None or weight is None or len(info.shape) >= len(weight.shape):
        return None
    return Mismatch("its input has no batch dimension: {0}", list(info.shape))
