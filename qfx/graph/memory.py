"""The one analysis of aliases: which values of a graph may lie in the same memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Container

from torch import Tensor, fx

from qfx.graph.aliases import Aliases
from qfx.graph.effects import overwrites
from qfx.graph.lookup import Lookup
from qfx.graph.overlap import memory_of
from qfx.private_attributes import is_erased


class Memory:
    """Which values of a graph may share memory, and what may write to it when.

    One forward sweep. What is made later has to be told by :meth:`learn`.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._aliases: Aliases[list[fx.Node]] = Aliases(_in_order)  # the fact: who writes, and when
        self._shared: dict[fx.Node, tuple[fx.Node, ...]] = {}
        attributes: dict[int, fx.Node] = {}
        lookup = Lookup(graph.owning_module)
        for node in graph.nodes:
            self._aliases.add(node, [])
            held = lookup.get(str(node.target)) if node.op == "get_attr" else None
            if isinstance(held, Tensor) and memory_of(held):  # buffers may be views of one another
                self._aliases.join(node, attributes.setdefault(memory_of(held), node))
            self._take_in(node)

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
        return next((n for n in self._aliases.fact(value) if not is_erased(n)), None)

    def owners_of_views(self) -> list[fx.Node]:
        """The results, of operations, whose memory others are views of and something overwrites."""
        views = (n for n, operands in self._shared.items() if operands and not overwrites(n))
        seen = {self._aliases.owner(v) for v in views if self.writer(v, v) is not None}
        owners = (n for n, operands in self._shared.items() if not operands)
        return [n for n in owners if n.op.startswith("call_") and self._aliases.owner(n) in seen]

    def learn(self, node: fx.Node) -> None:
        """Take in a node that was made since, or reads something else now."""
        for new in (node, *node.all_input_nodes):
            if new not in self._aliases:
                self._aliases.add(new, [])
        self._take_in(node)

    def _take_in(self, node: fx.Node) -> None:
        self._shared[node] = self._aliases.tie(node)
        for operand in overwrites(node):
            writers = self._aliases.fact(operand)
            place = bisect_left(writers, node)
            if writers[place : place + 1] != [node]:
                writers.insert(place, node)

    def owner(self, value: fx.Node) -> fx.Node:
        """The value by which all are known that may lie in the memory of ``value``."""
        return self._aliases.owner(value)

    def are_one(self, value: fx.Node, other: fx.Node) -> bool:
        """Whether two values may lie in the same memory."""
        return self._aliases.owner(value) is self._aliases.owner(other)

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
        writers = self._aliases.fact(value)
        for node in writers[bisect_right(writers, behind) :]:
            if before is not None and not node < before:
                return None
            if not is_erased(node) and node not in but:
                return node
        return None


def _in_order(writers: list[fx.Node], others: list[fx.Node]) -> list[fx.Node]:
    for writer in others:
        insort(writers, writer)
    return writers
