"""insert-stubs: mark where the quantized region begins and ends.

A graph without stubs put by hand is one region: the pass puts a QUANT_STUB behind every
float input that an operation reads and a DEQUANT_STUB before every float output. Stubs compute
nothing; they are removed when quantize and dequantize nodes are written.

Where the region lies, :mod:`qfx_passes.placement.quantized_region` tells.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from qfx import vocab
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.graph.memory import Memory
from qfx.rewrite import Rewriter
from qfx.vocab import Kind, OpDef
from qfx_passes.placement.quantized_region import QuantizedRegion, by_hand


class InsertStubs(Pass):
    """Put a stub at every boundary of the quantized region that has none."""

    name = "insert-stubs"
    requires = Level.CANONICAL
    produces = Level.STUBBED

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        region, rw = ctx.analysis(QuantizedRegion).nodes(graph), ctx.rewriter
        nodes = list(graph.nodes)
        inputs = [node for node in nodes if node.op == "placeholder"]
        first, output = nodes[len(inputs)], nodes[-1]
        if not any(by_hand(node) and node.target is vocab.QUANT_STUB for node in nodes):
            memory = Memory(graph)
            for node in filter(meta.is_float_tensor, inputs):
                readers = [
                    user
                    for user in node.users
                    if user in region and _operates(user) and memory.culprit(node, user) is None
                ]
                _put(rw, vocab.QUANT_STUB, node, readers, before=first)
        for node in filter(meta.is_float_tensor, output.all_input_nodes):
            _put(rw, vocab.DEQUANT_STUB, node, [output] if node in region else [], before=output)


def _operates(node: fx.Node) -> bool:
    idle = (Kind.QUERY, Kind.STUB, Kind.QUANT)
    return isinstance(node.target, OpDef) and node.target.kind not in idle


def _put(
    rw: Rewriter, stub: OpDef, node: fx.Node, readers: Sequence[fx.Node], *, before: fx.Node
) -> None:
    """Let ``readers``, if any, read ``node`` through a stub."""
    if not readers:
        return
    with rw.at(before):
        marked = rw.call(stub, node, origins=(node,), value=meta.value_of(node))
    for reader in readers:
        rw.rewire(reader, node, marked)
