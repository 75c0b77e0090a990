"""Whether what replaces a match reads the values that the match reads.

A replacement stands where the root of the match stood. What operations below it read may have been
overwritten in place by then:

    y = conv(x); halve_(x); z = relu(y)    is not    halve_(x); z = conv_relu(x)

And one that is no new value but another's memory changes with that.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from torch import fx

from qfx.graph.effects import shares_memory
from qfx.graph.memory import Memory
from qfx.rewrite.pattern import Mismatch
from qfx.rewrite.rule import Match


class Replacement:
    """What a rule may read where, told from the match before the rule changes the graph.

    Args:
        match: what will be replaced.
        memory: who writes to what.
    """

    def __init__(self, match: Match, memory: Memory) -> None:
        self._match, self._memory = match, memory
        self._readers: dict[fx.Node, fx.Node] = {}
        for node in match.nodes:  # in graph order
            for operand in node.all_input_nodes:
                self._readers.setdefault(operand, node)
        self._users = tuple(match.root.users)

    def refusal(self, result: fx.Node, fresh: tuple[fx.Node, ...]) -> Mismatch | None:
        """Why ``result``, made with ``fresh``, computes something else; None if nothing tells."""
        made = dict.fromkeys(fresh)
        for node in fresh:
            for operand in node.all_input_nodes:
                late = None if operand in made else self._read_late(node, operand)
                if late is not None:
                    return late
        shared = map(self._shared_late, _borrowed(result, made))
        return next((late for late in shared if late is not None), None)

    def _read_late(self, node: fx.Node, operand: fx.Node) -> Mismatch | None:
        reader = self._readers.get(operand, None if operand.op == "get_attr" else operand)
        if reader is None:
            return None
        writer = self._memory.writer(operand, reader, node, but=self._match.nodes)
        if writer is None:
            return None
        return Mismatch(
            "{0} may overwrite {1} before the replacement of {2} reads it",
            writer,
            operand,
            self._match.root,
        )

    def _shared_late(self, value: fx.Node) -> Mismatch | None:
        """Why readers of the root can't read the memory of ``value`` instead."""
        root = self._match.root
        if self._memory.are_one(value, root):
            return None
        last = max(self._users, default=root)
        writer = self._memory.writer(value, root, last) or self._memory.writer(root, root)
        if writer is None:
            return None
        text = "{0} may overwrite {1}, whose memory would stand for {2}"
        return Mismatch(text, writer, value, root)


def _borrowed(result: fx.Node, made: Container[fx.Node]) -> Iterator[fx.Node]:
    """The values from before whose memory ``result`` may lie in."""
    waiting: list[fx.Node] = [result]
    while waiting:
        node = waiting.pop()
        if node in made:
            waiting.extend(shares_memory(node))
        else:
            yield node
