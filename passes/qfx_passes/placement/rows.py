"""Rows of embeddings may have a spec of their own (``QConfig.rows``), unless their weight is tied.

A weight that a layer reads too is kept as that layer has it, so that it is kept once. Affine rows
that are nobody else's have offsets: they are only ever made float, and need no code for zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from operator import attrgetter

from torch import fx

from qfx.quant.spec import QConfig, QuantSpec
from qfx.vocab import OpDef, bound
from qfx_passes.operands import is_lookup


class Rows:
    """The specs of lookups in one graph."""

    def __init__(self, graph: fx.Graph) -> None:
        weights = list(_weights(graph))
        layers = {weight for node, weight in weights if not is_lookup(node)}
        self._own = {node for node, weight in weights if is_lookup(node) and weight not in layers}

    def settled(self, node: fx.Node, qconfig: QConfig | None) -> QConfig | None:
        """``qconfig`` with the weight spec that ``node`` gets."""
        if qconfig is None or node not in self._own or qconfig.method == "static":
            return qconfig
        if qconfig.rows is None:
            return replace(qconfig, weight=_with_offset(qconfig.weight))
        return replace(qconfig, activation=None, weight=_with_offset(qconfig.rows))


def _with_offset(spec: QuantSpec | None) -> QuantSpec | None:
    if spec is None or spec.symmetric or not spec.per_channel or spec.offset is not None:
        return spec
    return replace(spec, offset=True)


def _weights(graph: fx.Graph) -> Iterator[tuple[fx.Node, int]]:
    """Operations and the ids of the parameters that they read as their weights."""
    for node in graph.nodes:
        weight = bound(node).get("weight") if isinstance(node.target, OpDef) else None
        if isinstance(weight, fx.Node) and weight.op == "get_attr":
            yield node, id(attrgetter(str(weight.target))(graph.owning_module))
