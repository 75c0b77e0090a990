"""Recurrent layers over weights that are only kept in few bits, for every backend.

No kernel takes such weights, so they are made float whenever the layer runs, which then is torch's
own: small all the same, reason ``slow-kernel``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import fx

from qfx import vocab
from qfx.backends.base import Emitter, Site
from qfx.backends.weight_emit import Kept
from qfx.graph import meta
from qfx.quant.annotation import Kernel, mark_kernel
from qfx.report.reasons import refusal


def restored(em: Emitter, site: Site) -> fx.Node:
    """Emits the float layer over its weights as the reference form restores them."""
    node, op = site.node, site.node.target
    assert isinstance(op, vocab.OpDef)
    y = em.rw.call(op, *node.args, origins=(node,), value=meta.value_of(node), **node.kwargs)
    weights: Any = site.arguments["weights"]
    mark_restored(y, op, Kept.read(em, weights[0]).bits, "there is no kernel for them")
    return y


def mark_restored(y: fx.Node, op: vocab.OpDef, bits: str, detail: str) -> None:
    """Say that ``y`` calls a float layer over restored weights, and why."""
    why = refusal("slow-kernel", kept=bits, op=op.name, detail=detail)
    named = f"dequantized {bits} weights"
    mark_kernel(y, Kernel(named, 0, replace(why, quantized=True)))
