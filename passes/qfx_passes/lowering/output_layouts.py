"""Outputs lie in memory as the float model's do: callers may view them.

Kernels hand out channels_last, or views, where float layers hand out contiguous tensors. What the
float model was seen to return contiguous is made so at the output, and nowhere else.
"""

from __future__ import annotations

from torch import fx

from qfx.graph import meta
from qfx.rewrite.rewriter import Rewriter

_FEWEST_DIMS = 3  # of one or two dims kernels know one layout only


def keep_contiguous(graph: fx.Graph, rw: Rewriter) -> None:
    """Write a ``contiguous`` in front of the outputs that were contiguous with float."""
    output = next(iter(reversed(graph.nodes)))
    for node in meta.contiguous_outputs(output):
        info = meta.tensor_info(node)
        if info is None or len(info.shape) < _FEWEST_DIMS or node.op in ("placeholder", "get_attr"):
            continue
        with rw.at(output):
            dense = rw.call_method("contiguous", node, origins=(node,), value=info)
        output.replace_input_with(node, dense)
