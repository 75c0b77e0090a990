"""Recurrent layers over weights that are only kept in few bits, for every backend.

No kernel takes such weights, so they are made float whenever the layer runs, which then is torch's
own: small all the same, reason ``unfit-kernel``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import fx

from qfx import vocab
from qfx.backends.base import Emitter, LoweringSite
from qfx.backends.stored_weights.emitters import WeightNodes
from qfx.graph import meta
from qfx.quant.annotation import Decision, Kernel, mark_kernel
from qfx.quant.reasons import refusal


def restored(em: Emitter, site: LoweringSite) -> fx.Node:
    """Emits the float layer over its weights as the reference form restores them."""
    node, op = site.node, site.node.target
    assert isinstance(op, vocab.OpDef)
    y = em.rw.call(op, *node.args, origins=(node,), value=meta.value_of(node), **node.kwargs)
    weights: Any = site.arguments["weights"]
    bits = WeightNodes.read(em, weights[0]).bits
    why = refusal("unfit-kernel", kept=bits, op=op.name, detail="no kernel takes such weights")
    mark_restored(y, bits, why)
    return y


def mark_restored(y: fx.Node, bits: str, why: Decision) -> None:
    """Say that ``y`` calls a float layer over restored weights, and why."""
    mark_kernel(y, Kernel(f"dequantized {bits} weights", 0, replace(why, quantized=True)))
