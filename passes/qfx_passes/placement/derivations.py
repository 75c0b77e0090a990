"""What values derive from: operations of the capture, which captures of one model share."""

from __future__ import annotations

from typing import TypeAlias

from torch import fx

from qfx.graph import meta
from qfx.vocab import OpDef

Made: TypeAlias = "tuple[object, ...]"
"""The captured operations that a value derives from, what computes it, and a number of its own."""


def operations(graph: fx.Graph) -> set[str]:
    """The captured operations that nodes derive from: what drops leaves none in a reference."""
    origins = (origin for node in graph.nodes for origin in meta.origins(node))
    return {origin.node for origin in origins if origin.type_name != "parameter"}


def made_by(graph: fx.Graph, among: set[str]) -> dict[fx.Node, Made]:
    """What makes each value, of the operations ``among``.

    One call of a module may be taken apart into several alike.
    """
    made: dict[fx.Node, Made] = {}
    count: dict[tuple[object, ...], int] = {}
    for node in graph.nodes:
        if isinstance(node.target, OpDef) and node.target.inert:  # the reference has none left
            made[node] = made[node.args[0]]
            continue
        operations = frozenset(o.node for o in meta.origins(node) if o.node in among)
        key = (operations, node.target if node.op == "call_function" else node.op)
        made[node] = (*key, count.setdefault(key, 0))
        count[key] += 1
    return made
