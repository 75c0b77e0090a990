"""Mark where the quantized region begins and ends.

A graph without stubs put by hand is one region: ``insert-stubs`` puts a QUANT_STUB behind every
float input that an operation reads and a DEQUANT_STUB before every float output. Stubs compute
nothing; they are removed when quantize and dequantize nodes are written.

With ``qfx.QuantStub`` and ``qfx.DeQuantStub`` in the model, the region is what lies between them,
and everything else stays float (reason ``outside-stubs``). What "between" means is a choice.
Here a tensor is inside once it has passed a QuantStub and until it passes a DeQuantStub, and an
operation is inside when *all* the float activations it reads are. The alternative, *any*, reaches
further: it would quantize a float operand that the user never stubbed. In eager quantization, where
the stubs come from, such a mix of quantized and float operands is an error, so models written for
it have none and both readings agree; for the others *all* errs towards float, which always runs,
and the report says where. Constants take no side.

Only DeQuantStubs: the region begins at the inputs. Only QuantStubs: it ends at the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from torch import fx

from qfx import vocab
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass, PassContext
from qfx.graph import meta
from qfx.rewrite import Rewriter
from qfx.vocab import Kind, OpDef

NAME = "insert-stubs"


class Side(Enum):
    """Where a value lies with respect to the stubs."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    CONSTANT = "constant"  # depends on no input
    PLAIN = "plain"  # integers, masks, shapes


def by_hand(node: fx.Node) -> bool:
    """Whether ``node`` is a stub that the model's author put there."""
    return _is_stub(node) and meta.rule_of(node) != NAME


def quantized_region(graph: fx.Graph) -> set[fx.Node]:
    """The compute nodes that may be quantized; the same before and after ``insert-stubs``.

    Stubs, inputs, constants and the output belong to no side. A node whose result holds no float
    tensor (a shape query, a mask) is inside only where there are no stubs by hand.
    """
    compute = [node for node in graph.nodes if node.op.startswith("call_")]
    stubs = [node for node in compute if by_hand(node)]
    if not stubs:
        return {node for node in compute if not _is_stub(node)}
    begun = not any(stub.target is vocab.QUANT_STUB for stub in stubs)
    sides: dict[fx.Node, Side] = {}
    for node in graph.nodes:
        sides[node] = _side(node, sides, Side.INSIDE if begun else Side.OUTSIDE)
    return {node for node in compute if sides[node] is Side.INSIDE and not _is_stub(node)}


def _is_stub(node: fx.Node) -> bool:
    return vocab.is_op(node, vocab.QUANT_STUB, vocab.DEQUANT_STUB)


def _side(node: fx.Node, sides: dict[fx.Node, Side], start: Side) -> Side:
    if by_hand(node):
        return Side.INSIDE if node.target is vocab.QUANT_STUB else Side.OUTSIDE
    inputs = {sides[operand] for operand in node.all_input_nodes}
    if node.op == "get_attr" or (node.op != "placeholder" and inputs <= {Side.CONSTANT}):
        return Side.CONSTANT
    if not meta.float_tensors(meta.value_of(node)):
        return Side.PLAIN
    for side in (Side.OUTSIDE, Side.INSIDE):
        if side in inputs:
            return side
    return start  # made here: an input, or floats from integers (embedding, cast)


class InsertStubs(Pass):
    """Put a stub at every boundary of the quantized region that has none."""

    name = NAME
    requires = Level.CANONICAL
    produces = Level.STUBBED

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        region, rw = quantized_region(graph), ctx.rewriter
        nodes = list(graph.nodes)
        inputs = [node for node in nodes if node.op == "placeholder"]
        first, output = nodes[len(inputs)], nodes[-1]
        if not any(by_hand(node) and node.target is vocab.QUANT_STUB for node in nodes):
            for node in filter(meta.is_float_tensor, inputs):
                readers = [user for user in node.users if user in region and _operates(user)]
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
