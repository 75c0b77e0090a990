"""What it takes to rebuild a graph as it was before a pass, at a fraction of the cost of a copy.

fx replaces argument tuples and never changes them in place, so holding each node's present tuples
is enough: the graph itself is only built anew if the pass fails. By the same token a graph whose
nodes hold the very same objects is the same graph.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx, nn

from qfx.graph.clone import shell
from qfx.graph.lookup import Lookup
from qfx.graph.state import held_by_calls
from qfx.private_attributes import code_of


class Checkpoint:
    """The state of a graph module's graph; tensors are shared, not copied.

    So are what submodules hold, which passes may take out of these: they use the parts.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        graph = self._graph = graph_module.graph
        self._training = graph_module.training
        self._codegen = code_of(graph)
        self._nodes = [
            (n, n.op, n.target, n.args, n.kwargs, n.name, n.type, dict(n.meta)) for n in graph.nodes
        ]
        lookup = Lookup(graph_module)
        self._attributes: dict[str, Any] = {}
        for _, op, target, *_ in self._nodes:
            if op in ("get_attr", "call_module") and target not in self._attributes:
                self._attributes[str(target)] = lookup.get(str(target))
        self._held_by_calls = held_by_calls(graph_module)
        self._modules = {
            name: shell(held)
            for name, held in self._attributes.items()
            if isinstance(held, nn.Module)
        }

    def holds(self, graph_module: fx.GraphModule) -> bool:
        """Whether ``graph_module`` still has the same graph, over the same tensors and modules."""
        graph = graph_module.graph
        if graph is not self._graph or graph.owning_module is not graph_module:
            return False
        if len(graph.nodes) != len(self._nodes):
            return False
        if not all(map(_is_as_it_was, graph.nodes, self._nodes)):
            return False
        lookup = Lookup(graph_module)
        if not all(lookup.get(name) is held for name, held in self._attributes.items()):
            return False
        return not self.tampered_with(graph_module)

    def tampered_with(self, graph_module: fx.GraphModule) -> set[fx.Node]:
        """The nodes whose modules hold other things than they did, and are called by the names."""
        now, before = held_by_calls(graph_module), self._held_by_calls
        other = {p for p, held in now.items() if p in before and not _are_same(held, before[p])}
        return {n for n in graph_module.graph.nodes if n.op == "call_module" and n.target in other}

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
        restored = fx.GraphModule({**self._attributes, **self._modules}, graph)
        restored.training = self._training
        return restored


def _are_same(held: list[object], before: list[object]) -> bool:
    return len(held) == len(before) and all(map(operator.is_, held, before))


def _is_as_it_was(node: fx.Node, before: tuple[Any, ...]) -> bool:
    """Whether a node holds the objects that it held ``before``, at the same place."""
    was, op, target, args, kwargs, name, _, meta = before
    if node is not was or node.args is not args or node.kwargs is not kwargs:
        return False
    if (node.op, node.target, node.name) != (op, target, name) or len(node.meta) != len(meta):
        return False
    return all(node.meta.get(key) is value for key, value in meta.items())
