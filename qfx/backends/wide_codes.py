"""What kernels must be right about for a model: sums of products of 8-bit codes.

A model that was quantized where kernels add them up exactly (VNNI, AMX) reads codes of 8 bits.
Where kernels saturate (:mod:`qfx.backends.saturation`), it would be wrong; a model whose codes keep
to 7 bits is right, and the same, everywhere.
"""

from __future__ import annotations

import torch
from torch import fx

from qfx.backends.saturation import HIGHEST_SAFE
from qfx.quant.annotation import annotation
from qfx.vocab import Kind, OpDef

EXACT_SUMS = "kernels that add up products of 8-bit codes exactly (VNNI, AMX)"
MAY_SATURATE = ("x86", "fbgemm")
"""Backends whose kernels saturate on some CPUs; those of qnnpack do on none."""


def wide_layer(graph: fx.Graph) -> fx.Node | None:
    """The first layer of a reference graph that reads activations of 8 bits, or None."""
    return next((node for node in graph.nodes if _reads_eight_bits(node)), None)


def _reads_eight_bits(node: fx.Node) -> bool:
    note = annotation(node)
    if note is None or not note.decision.quantized or not isinstance(node.target, OpDef):
        return False
    if node.target.kind is not Kind.MATMUL:
        return False
    specs = (e.spec for e in note.reads.values() if e.spec.dtype in (torch.uint8, torch.int8))
    return any(spec.bounds[1] - spec.bounds[0] > HIGHEST_SAFE for spec in specs)
