"""keep-contiguous: outputs lie in memory as the float model's do, so that callers may view them.

    return y  ->  return y.contiguous()

Kernels hand out channels_last, or views, where float layers hand out contiguous tensors. What the
float model was seen to return contiguous is made so at the output, and nowhere else.
"""

from __future__ import annotations

from torch import fx

from qfx.backends.base import Backend
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta

_FEWEST_DIMS = 3  # of one or two dims kernels know one layout only


class KeepContiguous(Pass):
    """Write a ``contiguous`` in front of the outputs that were contiguous with float."""

    name = "keep-contiguous"
    requires = Level.LOWERED

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        if ctx.get(Backend).quantize is None:
            return  # the reference form has no kernels
        rw, output = ctx.rewriter, next(iter(reversed(graph.nodes)))
        for node in meta.contiguous_outputs(output):
            if not _may_lie_otherwise(node):
                continue
            info = meta.value_of(node)
            with rw.at(output):
                dense = rw.call_method("contiguous", node, origins=(node,), value=info)
            rw.rewire(output, node, dense)


def _may_lie_otherwise(node: fx.Node) -> bool:
    info = meta.tensor_info(node)
    return (
        info is not None
        and len(info.shape) >= _FEWEST_DIMS
        and node.op not in ("placeholder", "get_attr")
    )
