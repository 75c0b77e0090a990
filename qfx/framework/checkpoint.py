"""What it takes to rebuild a graph as it was before a pass, at a fraction of the cost of a copy.

fx replaces argument tuples and never changes them in place, so holding each node's present tuples
is enough: the graph itself is only built anew if the pass fails.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from qfx.graph.lookup import Lookup


class Checkpoint:
    """The state of a graph module's graph; tensors and modules are shared, not copied."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        graph = graph_module.graph
        self._training = graph_module.training
        self._codegen = graph._codegen
        self._nodes = [
            (n, n.op, n.target, n.args, n.kwargs, n.name, n.type, dict(n.meta)) for n in graph.nodes
        ]
        lookup = Lookup(graph_module)
        self._attributes: dict[str, Any] = {}
        for _, op, target, *_ in self._nodes:
            if op in ("get_attr", "call_module") and target not in self._attributes:
                self._attributes[str(target)] = lookup.get(str(target))

    def arguments(self) -> dict[fx.Node, tuple[Any, Any]]:
        """The arguments of every node as they were."""
        return {node: (args, kwargs) for node, _, _, args, kwargs, *_ in self._nodes}

    def restore(self) -> fx.GraphModule:
        """A new graph module with the graph as it was."""
        graph = fx.Graph()
        graph.set_codegen(self._codegen)
        now: dict[fx.Node, fx.Node] = {}
        for node, op, target, args, kwargs, name, type_, meta in self._nodes:
            copied = (fx.map_arg(args, now.__getitem__), fx.map_arg(kwargs, now.__getitem__))
            now[node] = graph.create_node(op, target, *copied, name=name, type_expr=type_)
            now[node].meta = meta
        restored = fx.GraphModule(self._attributes, graph)
        restored.training = self._training
        return restored
