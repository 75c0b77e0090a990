"""Results that views look into and something overwrites keep their memory format.

Kernels may hand out channels_last, of which a flatten is a copy, and no view any more.
"""

from __future__ import annotations

from torch import fx

from qfx import vocab
from qfx.graph import meta
from qfx.graph.memory import Memory
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import is_op


def pin_layouts(graph: fx.Graph, rewriter: Rewriter) -> None:
    """Write a CONTIGUOUS behind each of them."""
    for root in Memory(graph).owners_of_views():
        if meta.tensor_info(root) is None or all(is_op(u, vocab.CONTIGUOUS) for u in root.users):
            continue
        with rewriter.at(root.next):
            pinned = rewriter.call(
                vocab.CONTIGUOUS, root, origins=(root,), value=meta.value_of(root)
            )
            rewriter.replace(root, pinned)
