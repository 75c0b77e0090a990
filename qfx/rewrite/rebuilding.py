"""What changed between two graphs of the same captured operations, one built in place of the other.

Nobody rewrote one into the other, so which nodes stand for which follows from the operations that
they derive from: those that share some, directly or through others, changed together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import fx

from qfx.graph import meta
from qfx.graph.disjoint import DisjointSets
from qfx.history.events import Event


@dataclass
class Change:
    """Nodes that changed together, in graph order."""

    removed: list[fx.Node] = field(default_factory=list)
    added: list[fx.Node] = field(default_factory=list)
    changed: list[fx.Node] = field(default_factory=list)

    def event(self, rule: str) -> Event:
        """The event that says so."""
        nodes = (*self.changed, *self.removed, *self.added)
        source = next((meta.source(n) for n in nodes if meta.source(n)), "")
        return Event(rule, _names(self.removed), _names(self.added), source, _names(self.changed))


NodeKey = tuple[object, ...]
"""What tells nodes of one name apart; what they read counts by name."""


def look_of(node: fx.Node) -> NodeKey:
    """How ``node`` looks, which erasing it spoils."""
    known = meta.origins(node), meta.rule_of(node), meta.value_of(node)
    return (node.op, node.target, repr(node.args), repr(node.kwargs), *known)


def changes(before: Mapping[fx.Node, NodeKey], after: Iterable[fx.Node]) -> Iterator[Change]:
    """What went, came and changed, in groups.

    Args:
        before: the nodes of the graph that was, erased by now, and how they looked.
        after: the nodes of the one that is.
    """
    was, now = {n.name: n for n in before}, {n.name: n for n in after}
    gone = [node for name, node in was.items() if name not in now]
    new = [node for name, node in now.items() if name not in was]
    groups = _groups((*gone, *new))
    for node in gone:
        groups[node].removed.append(node)
    for node in new:
        groups[node].added.append(node)
    yield from {id(group): group for group in groups.values()}.values()
    changed = [
        node for name, node in now.items() if name in was and before[was[name]] != look_of(node)
    ]
    yield from (Change(changed=[node]) for node in changed)


def _groups(nodes: Iterable[fx.Node]) -> dict[fx.Node, Change]:
    """For each of ``nodes`` the change that it belongs to."""
    sets: DisjointSets[object] = DisjointSets()
    for node in nodes:
        sets.add(node)
        for origin in meta.origins(node):
            if origin.node not in sets:
                sets.add(origin.node)
            sets.join(node, origin.node)
    found: dict[object, Change] = {}
    return {node: found.setdefault(sets.root(node), Change()) for node in nodes}


def _names(nodes: Iterable[fx.Node]) -> tuple[str, ...]:
    return tuple(node.name for node in nodes)
