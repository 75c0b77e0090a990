"""The one analysis of aliases: which values of a graph may lie in the same memory."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Container

from torch import Tensor, fx

from qfx.graph.disjoint import DisjointSets
from qfx.graph.effects import overwrites, shares_memory
from qfx.graph.lookup import Lookup
from qfx.graph.overlap import memory_of


class Memory:
    """Which values of a graph may share memory, and what may write to it when.

    One forward sweep. What is made later has to be told by :meth:`learn`.
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
        writer = self.writer(operand, operand)
        if writer is not None and writer < reader:
            return writer
        is_view = operand in self._shared.get(reader, ())
        return self.writer(operand, reader) if is_view else None

    def any_writer(self, value: fx.Node) -> fx.Node | None:
        """The first call that may write to the memory of ``value``, before or after it is read."""
        return next(
            (n for n in self._writers.get(self._sets.root(value), []) if not n._erased), None
        )

    def owners_of_views(self) -> list[fx.Node]:
        """The results, of operations, whose memory others are views of and something overwrites."""
        views = (n for n, operands in self._shared.items() if operands and not overwrites(n))
        seen = {self._sets.root(v) for v in views if self.writer(v, v) is not None}
        owners = (n for n, operands in self._shared.items() if not operands)
        return [n for n in owners if n.op.startswith("call_") and self._sets.root(n) in seen]

    def learn(self, node: fx.Node) -> None:
        """Take in a node that was made since, or reads something else now."""
        for new in (node, *node.all_input_nodes):
            if new not in self._sets:
                self._sets.add(new)
        self._shared[node] = shares_memory(node)
        for operand in self._shared[node]:
            gone = self._sets.join(node, operand)
            for writer in self._writers.pop(gone, ()) if gone is not None else ():
                insort(self._writers.setdefault(self._sets.root(node), []), writer)
        for root in dict.fromkeys(map(self._sets.root, overwrites(node))):
            writers = self._writers.setdefault(root, [])
            if node not in writers:
                insort(writers, node)

    def owner(self, value: fx.Node) -> fx.Node:
        """The value by which all are known that may lie in the memory of ``value``."""
        return self._sets.root(value)

    def are_one(self, value: fx.Node, other: fx.Node) -> bool:
        """Whether two values may lie in the same memory."""
        return self._sets.root(value) is self._sets.root(other)

    def writer(
        self,
        value: fx.Node,
        behind: fx.Node,
        before: fx.Node | None = None,
        *,
        but: Container[fx.Node] = (),
    ) -> fx.Node | None:
        """The first call between two nodes that may write to the memory of ``value``, if any.

        Args:
            value: the value.
            behind: the one.
            before: the other; the end of the graph without it.
            but: calls that do not count.
        """
        writers = self._writers.get(self._sets.root(value), [])
        for node in writers[bisect_right(writers, behind) :]:
            if before is not None and not node < before:
                return None
            if not node._erased and node not in but:
                return node
        return None
