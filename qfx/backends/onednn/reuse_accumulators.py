"""reuse-accumulators: let a "sum" kernel add to a residual where it lies, without a copy.

    sum(x, w, clone(r))  ->  sum(x, w, r)

The "sum" kernels of oneDNN add to their residual in place, so lowering gives each a copy. It may
have the residual itself where that is a kernel's fresh result (channels_last, as "sum" wants it)
that nobody reads later and no view looks into.
"""

from __future__ import annotations

from torch import fx

from qfx.backends.onednn.memory import ACCUMULATOR, COPIES, COPYING, is_fresh
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext


class ReuseAccumulators(Pass):
    """Drop the copies of residuals that "sum" kernels may overwrite."""

    name = "reuse-accumulators"
    requires = Level.LOWERED

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        for node in list(graph.nodes):
            if node.target not in COPIES:
                continue
            copy = node.args[ACCUMULATOR]
            assert isinstance(copy, fx.Node)
            if copy.target is COPIES[node.target] and _may_overwrite(copy, node):
                ctx.rewriter.replace(copy, copy.all_input_nodes[0])


def _may_overwrite(copy: fx.Node, by: fx.Node) -> bool:
    residual = copy.all_input_nodes[0]
    if list(copy.users) != [by] or not is_fresh(residual):
        return False
    return all(u is copy or (u < by and u.target in COPYING) for u in residual.users)
