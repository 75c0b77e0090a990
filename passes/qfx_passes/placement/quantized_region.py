"""Which operations may be quantized: those between the stubs.

A graph without stubs put by hand is one region.

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

from enum import Enum

from torch import fx
from typing_extensions import Self

from qfx import vocab
from qfx.graph import meta
from qfx.rewrite import Analysis

INSERTING = "insert-stubs"
"""The pass whose stubs are not put by hand."""


class StubSide(Enum):
    """Where a value lies with respect to the stubs."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    CONSTANT = "constant"  # depends on no input
    PLAIN = "plain"  # integers, masks, shapes


class QuantizedRegion(Analysis):
    """The compute nodes that may be quantized; the same before and after ``insert-stubs``.

    Stubs, inputs, constants and the output belong to no side. A node whose result holds no float
    tensor (a shape query, a mask) is inside only where there are no stubs by hand.
    """

    def __init__(self, graph: fx.Graph) -> None:
        stubs = [node for node in graph.nodes if by_hand(node)]
        self._whole = not stubs
        begun = not any(stub.target is vocab.QUANT_STUB for stub in stubs)
        self._start = StubSide.INSIDE if begun else StubSide.OUTSIDE
        self._sides: dict[fx.Node, StubSide] = {}
        for node in graph.nodes:
            self.learn(node)

    @classmethod
    def of(cls, graph_module: fx.GraphModule) -> Self:
        return cls(graph_module.graph)

    def learn(self, node: fx.Node) -> bool:
        if not self._whole:
            self._sides[node] = _side(node, self._sides, self._start)
        return self._whole or not by_hand(node)

    def __contains__(self, node: fx.Node) -> bool:
        if not node.op.startswith("call_") or _is_stub(node):
            return False
        return self._whole or self._sides[node] is StubSide.INSIDE

    def nodes(self, graph: fx.Graph) -> set[fx.Node]:
        """Those of ``graph`` that are inside."""
        return {node for node in graph.nodes if node in self}


def by_hand(node: fx.Node) -> bool:
    """Whether ``node`` is a stub that the model's author put there."""
    return _is_stub(node) and meta.rule_of(node) != INSERTING


def _is_stub(node: fx.Node) -> bool:
    return vocab.is_op(node, *vocab.STUBS)


def _side(node: fx.Node, sides: dict[fx.Node, StubSide], start: StubSide) -> StubSide:
    if by_hand(node):
        return StubSide.INSIDE if node.target is vocab.QUANT_STUB else StubSide.OUTSIDE
    inputs = {sides[operand] for operand in node.all_input_nodes}
    if node.op == "get_attr" or (node.op != "placeholder" and inputs <= {StubSide.CONSTANT}):
        return StubSide.CONSTANT
    if not meta.float_tensors(meta.value_of(node)):
        return StubSide.PLAIN
    for side in (StubSide.OUTSIDE, StubSide.INSIDE):
        if side in inputs:
            return side
    return start  # made here: an input, or floats from integers (embedding, cast)
