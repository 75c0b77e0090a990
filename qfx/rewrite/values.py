"""What the nodes that a pass makes yield: inferred, or as the pass says, and checked afterwards.

A node that takes the place of another must yield what that did, since others read it; a pass that
means it to yield something else says so with ``value=``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import fx

from qfx.graph import meta
from qfx.graph.inference import Inference

UNSET: Any = object()
"""Stands for a value that is not given."""


class _Inferred(NamedTuple):
    """A value that was not given.

    Attributes:
        known: whether it is what the node computes; else it is assumed.
        call: what it was computed from.
    """

    known: bool
    call: tuple[object, ...]


class Values:
    """The values of the nodes of one graph, on behalf of one pass.

    Args:
        graph_module: the owner of the graph.
        runs: whether nodes may be run, without values, to tell what they yield.

    Attributes:
        expected: what stood where a node stands now, unless its value was given.
        configured: nodes whose modules were changed.
    """

    def __init__(self, graph_module: fx.GraphModule, *, runs: bool = True) -> None:
        self._inference = Inference(graph_module, runs=runs)
        self._inferred: dict[fx.Node, _Inferred] = {}
        self.expected: dict[fx.Node, meta.Value] = {}
        self.configured: set[fx.Node] = set()

    def is_inferred(self, node: fx.Node) -> bool:
        """Whether what is recorded of ``node`` is what it computes."""
        found = self._inferred.get(node)
        return found is not None and found.known

    def settle(self, node: fx.Node, value: meta.Value, like: fx.Node | None) -> None:
        """Set what a new ``node`` yields: ``value``, or else what it computes.

        Where that can't be told without data, it is assumed to be what ``like`` yields.
        """
        if value is not UNSET:
            meta.set_value(node, value)
            return
        try:
            found, is_known = self._inference.value(node), True
        except Exception:  # of the node's own operation: the check after the pass says more
            found, is_known = None if like is None else meta.value_of(like), False
        self._inferred[node] = _Inferred(is_known, _call(node))
        meta.set_value(node, found)

    def restate(self, node: fx.Node, value: meta.Value) -> None:
        """Set what a ``node`` yields that was changed: ``value``, or else what it did before.

        Of one that was made, and not told what it yields, it is what it computes now.
        """
        if value is not UNSET:
            self.forget(node)
            meta.set_value(node, value)
        elif node in self._inferred:
            self.settle(node, UNSET, node)

    def stand_in(self, old: fx.Node, new: fx.Node) -> None:
        """Let ``new``, which takes the place of ``old``, answer to what that yields."""
        was = self.expected.pop(old, meta.value_of(old))
        if new not in self._inferred:
            return
        self.expected[new] = was
        if not self.is_inferred(new):
            meta.set_value(new, was)

    def settle_all(self, graph: fx.Graph) -> None:
        """Infer anew what was inferred of operands that yield something else by now."""
        for node in graph.nodes if self._inferred else ():
            inferred = self._inferred.get(node)
            if inferred is not None and inferred.call != _call(node):
                self.settle(node, UNSET, node)

    def forget(self, node: fx.Node) -> None:
        """Drop what is kept of a node that is erased."""
        self._inferred.pop(node, None)
        self.expected.pop(node, None)
        self.configured.discard(node)


def _call(node: fx.Node) -> tuple[object, ...]:
    operands = (meta.value_of(operand) for operand in node.all_input_nodes)
    return node.target, node.args, node.kwargs, *operands
