"""flatten-constants: every constant that the graph reads has a name at the root.

    self.layer1.conv.weight_scale  ->  self.layer1_conv_weight_scale

In generated code a dot costs a Python-level ``__getattr__``; on small layers that is a tenth of the
time. The tensors are the same objects, and what two nodes read under one name stays one.
"""

from __future__ import annotations

from torch import fx

from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext


class FlattenConstants(Pass):
    """Give what ``get_attr`` nodes read names without dots."""

    name = "flatten-constants"
    requires = Level.REFERENCE

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        rw, flat = ctx.rewriter, dict[str, str]()
        for node in graph.nodes:
            if node.op != "get_attr" or "." not in node.target:
                continue
            if node.target not in flat:
                flat[node.target] = rw.rename(node.target, node.target.replace(".", "_"))
            rw.retarget(node, flat[node.target])
