"""overwrite-operands: let quantizing use the memory of what it alone reads.

    quantize(x)  ->  quantize(x, overwrite=True)

Quantizing shifts floats before it takes their low bytes. Where nothing reads them afterwards, it
does so in place, which halves the memory that it goes through.
"""

from __future__ import annotations

from torch import fx

from qfx.backends.onednn.memory import QUANTIZING, is_own
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext


class OverwriteOperands(Pass):
    """Mark the quantizing that may overwrite its operand."""

    name = "overwrite-operands"
    requires = Level.LOWERED

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        for node in graph.nodes:
            if node.target in QUANTIZING and is_own(node.args[0], node):
                ctx.rewriter.update(node, kwargs={**node.kwargs, "overwrite": True})
