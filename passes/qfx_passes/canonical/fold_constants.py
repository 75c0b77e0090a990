"""fold-constants: compute once what depends on parameters alone.

A standardized weight, a bias table read by an index, a positional embedding: in inference such a
value is a constant, and a convolution whose weight is one can be quantized like any other. Only
the last node of a constant computation is kept, as a buffer; the graph returns copies of it, and
views of copies. Not for training, where parameters move; nor for values that are much larger than
what they are made from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from qfx import vocab
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.graph.effects import returned_through
from qfx.vocab import is_op
from qfx_passes.canonical.constants import ConstantNodes


class FoldConstants(Pass):
    """Compute what depends on parameters and buffers alone.

    Attributes:
        growth: how many times larger than its sources a constant may be.
    """

    name = "fold-constants"
    requires = Level.CANONICAL
    growth: int = 4

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        constants = ConstantNodes(graph, ctx.rewriter)
        returned = returned_through(graph)
        for node in list(graph.nodes):
            if not constants.is_last(node) or _is_handed_out(node, returned):
                continue
            if self._is_worth_it(node, constants.sources[node]):
                constants.materialize(node, returned.get(node, ()))

    def _is_worth_it(self, node: fx.Node, sources: int) -> bool:
        info = meta.tensor_info(node)
        if node.op == "get_attr" or info is None:
            return False
        return info.numel <= self.growth * max(sources, 256)


def _is_handed_out(node: fx.Node, returned: Mapping[fx.Node, Sequence[fx.Node]]) -> bool:
    """Whether ``node`` is the copy of a constant that callers get."""
    held = all(operand.op == "get_attr" for operand in node.all_input_nodes)
    return is_op(node, vocab.CLONE) and held and len(returned.get(node, ())) == len(node.users)
