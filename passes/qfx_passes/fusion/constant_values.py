"""Which values depend on no input of the graph: they are the same in every batch."""

from __future__ import annotations

from torch import fx
from typing_extensions import Self

from qfx.rewrite import Analysis


class ConstantValues(Analysis):
    """Nodes whose values depend on no input of the graph."""

    def __init__(self, graph: fx.Graph) -> None:
        self._found: set[fx.Node] = set()
        for node in graph.nodes:
            self.learn(node)

    @classmethod
    def of(cls, graph_module: fx.GraphModule) -> Self:
        return cls(graph_module.graph)

    def learn(self, node: fx.Node) -> bool:
        constant = node.op not in ("placeholder", "output")
        if constant and self._found.issuperset(node.all_input_nodes):
            self._found.add(node)
        else:
            self._found.discard(node)
        return True

    def __contains__(self, node: fx.Node) -> bool:
        return node in self._found
