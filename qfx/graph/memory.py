"""The one analysis of aliases: which values of a graph may lie in the same memory."""

from __future__ import annotations

from bisect import bisect_right

from torch import Tensor, fx

from qfx.graph.disjoint import DisjointSets
from qfx.graph.effects import overwrites, shares_memory
from qfx.graph.lookup import Lookup
from qfx.graph.overlap import memory_of


class Memory:
    """Which values of a graph may share memory, and what may write to it when.

    One forward sweep.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._sets: DisjointSets[fx.Node] = DisjointSets()
        self._shared: dict[fx.Node, tuple[fx.Node, ...]] = {}
        self._writers: dict[fx.Node, list[fx.Node]] = {}
        attributes: dict[int, fx.Node] = {}
        lookup = Lookup(graph.owning_module)
        written: list[tuple[fx.Node, tuple[fx.Node, ...]]] = []
        for node in graph.nodes:
            self._sets.add(node)
            held = lookup.get(str(node.target)) if node.op == "get_attr" else None
            if isinstance(held, Tensor) and memory_of(held):  # buffers may be views of one another
                self._sets.join(node, attributes.setdefault(memory_of(held), node))
            self._shared[node] = shares_memory(node)
            for operand in self._shared[node]:
                self._sets.join(node, operand)
            operands = overwrites(node)
            if operands:
                written.append((node, operands))
        for node, operands in written:
            for root in dict.fromkeys(map(self._sets.root, operands)):
                self._writers.setdefault(root, []).append(node)

    def culprit(self, operand: fx.Node, reader: fx.Node) -> fx.Node | None:
        """The call because of which ``reader`` has to read the very memory of ``operand``.

        It changes the value before ``reader`` reads it, or after ``reader`` has made a view of it.
        """
        writer = self._next_writer(operand, operand)
        if writer is not None and writer < reader:
            return writer
        is_view = operand in self._shared.get(reader, ())
        return self._next_writer(operand, reader) if is_view else None

    def owners_of_views(self) -> list[fx.Node]:
        """The results, of operations, whose memory others are views of and something overwrites."""
        views = (n for n, operands in self._shared.items() if operands and not overwrites(n))
        seen = {self._sets.root(v) for v in views if self._next_writer(v, v) is not None}
        owners = (n for n, operands in self._shared.items() if not operands)
        return [n for n in owners if n.op.startswith("call_") and self._sets.root(n) in seen]

    def _next_writer(self, value: fx.Node, behind: fx.Node) -> fx.Node | None:
        """The first call behind a node that may write to the memory of ``value``."""
        writers = self._writers.get(self._sets.root(value), [])
        return next(iter(writers[bisect_right(writers, behind) :]), None)
