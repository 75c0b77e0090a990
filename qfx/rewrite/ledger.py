"""What a pass does to a graph, written down: nodes that come, go and change, as events."""

from __future__ import annotations

from collections.abc import Container

from torch import fx

from qfx.errors import PatternError
from qfx.graph import meta
from qfx.history.events import Event

_MOST_CHANGES = 100_000
_MOST_PER_NODE = 100
"""What a pass may do to a graph, and to each node that it had: more is no progress."""


class Ledger:
    """The events of one pass, and what was done since the last of them.

    Args:
        size: how many nodes the graph had.

    Attributes:
        events: what was done, in order.
        fresh: nodes made since the last event, in order.
    """

    def __init__(self, size: int = 0) -> None:
        self._left = _MOST_CHANGES + _MOST_PER_NODE * size
        self.events: list[Event] = []
        self.fresh: dict[fx.Node, None] = {}
        self._removed: list[str] = []
        self._changed: dict[fx.Node, None] = {}
        self._source = ""

    def locate(self, node: fx.Node) -> None:
        """Let the event name the source line of ``node``, if it names none yet."""
        self._source = self._source or meta.source(node)

    def made(self, node: fx.Node) -> None:
        """Write down that ``node`` is new."""
        self._count(node)
        self.fresh[node] = None

    def changed(self, node: fx.Node) -> None:
        """Write down that ``node`` does, or reads, something else."""
        self._count(node)
        if node not in self.fresh:
            self._changed[node] = None

    def removed(self, node: fx.Node) -> None:
        """Write down that ``node`` is about to go; one that is new was never there."""
        self._changed.pop(node, None)
        if node in self.fresh:
            del self.fresh[node]
        else:
            self._removed.append(node.name)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was done since the last event."""
        return not (self.fresh or self._removed or self._changed or self._source)

    def _count(self, node: fx.Node) -> None:
        self._left -= 1
        if self._left < 0:
            raise PatternError(
                f"the pass does not come to an end: it goes on making and changing nodes, the last "
                f"at {meta.where(node)}. Walk over list(graph.nodes) once, or repeat only as long "
                "as something is left that a repetition makes fewer",
                node=node.name,
            )

    def close(self, rule: str, only: Container[fx.Node] | None = None) -> list[fx.Node]:
        """Make an event of what happened since the last one, if anything did.

        Args:
            rule: on whose behalf it happened.
            only: which of the new nodes belong to it; the others await theirs.

        Returns:
            The new nodes that it names.
        """
        added = [node for node in self.fresh if only is None or node in only]
        if self._removed or added or self._changed:
            source = self._source or next((meta.source(n) for n in added), "")
            names = tuple(node.name for node in added)
            changed = tuple(node.name for node in self._changed)
            self.events.append(Event(rule, tuple(self._removed), names, source, changed))
        for node in added:
            del self.fresh[node]
        self._removed.clear()
        self._changed.clear()
        self._source = ""
        return added
