"""Values that a call overwrites, or may overwrite, in place.

Canonicalization makes most in-place operations functional. What it has to leave, an operation on a
view that something else reads or a function of the user's own, changes values behind the back of
whoever read them before: quantizing such a value takes a copy, and the copy would miss the change.

So the value after the change gets a node of its own (:data:`qfx.vocab.AFTER`), which is a value
like any other. What is left are views: of a value that changes later, they must stay views, and
what reads one after the change must read its memory.
"""

from __future__ import annotations

from bisect import bisect_right

from torch import Tensor, fx

from qfx import vocab
from qfx.graph import meta
from qfx.graph.effects import overwrites, shares_memory
from qfx.graph.lookup import Lookup
from qfx.graph.overlap import memory_of
from qfx.rewrite.rewriter import Rewriter


class Memory:
    """Which values of a graph may share memory, and what may write to it when.

    One forward sweep with union-find.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._parent: dict[fx.Node, fx.Node] = {}
        self._shared: dict[fx.Node, tuple[fx.Node, ...]] = {}
        self._writers: dict[fx.Node, list[fx.Node]] = {}
        attributes: dict[int, fx.Node] = {}
        lookup = Lookup(graph.owning_module)
        written: list[tuple[fx.Node, tuple[fx.Node, ...]]] = []
        for node in graph.nodes:
            self._parent[node] = node
            held = lookup.get(str(node.target)) if node.op == "get_attr" else None
            if isinstance(held, Tensor) and memory_of(held):  # buffers may be views of one another
                self._join(node, attributes.setdefault(memory_of(held), node))
            self._shared[node] = shares_memory(node)
            for operand in self._shared[node]:
                self._join(node, operand)
            operands = overwrites(node)
            if operands:
                written.append((node, operands))
        for node, operands in written:
            for root in dict.fromkeys(map(self._root, operands)):
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
        seen = {self._root(v) for v in views if self._next_writer(v, v) is not None}
        owners = (n for n, operands in self._shared.items() if not operands)
        return [n for n in owners if n.op.startswith("call_") and self._root(n) in seen]

    def _next_writer(self, value: fx.Node, behind: fx.Node) -> fx.Node | None:
        """The first call behind a node that may write to the memory of ``value``."""
        writers = self._writers.get(self._root(value), [])
        return next(iter(writers[bisect_right(writers, behind) :]), None)

    def _root(self, node: fx.Node) -> fx.Node:
        root = node
        while self._parent[root] is not root:
            root = self._parent[root]
        while self._parent[node] is not root:
            self._parent[node], node = root, self._parent[node]
        return root

    def _join(self, node: fx.Node, other: fx.Node) -> None:
        mine, theirs = self._root(node), self._root(other)
        if mine is not theirs:
            self._parent[mine] = theirs


def name_changed_values(graph: fx.Graph, rewriter: Rewriter) -> None:
    """Let what reads a value after a call that may change it read a node of its own."""
    for writer in reversed(list(graph.nodes)):
        for operand in dict.fromkeys(overwrites(writer)):
            if operand.op == "get_attr" or meta.tensor_info(operand) is None:
                continue
            readers = [user for user in operand.users if user > writer]
            if readers:
                _name_changed(writer, operand, readers, rewriter)


def _name_changed(
    writer: fx.Node, operand: fx.Node, readers: list[fx.Node], rewriter: Rewriter
) -> None:
    with rewriter.at(writer.next):
        changed = rewriter.call(vocab.AFTER, operand, writer, value=meta.value_of(operand))
    meta.set_origins(changed, ())
    for reader in readers:
        reader.replace_input_with(operand, changed)
