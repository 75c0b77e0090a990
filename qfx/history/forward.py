"""What became of a node: the chain from a stage on to the last, the counterpart of blame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from qfx.history.snapshot import Snapshot

if TYPE_CHECKING:
    from qfx.history.stage import Stage

Link = tuple[str, tuple[str, ...], tuple[str, ...]]
"""A rule, the heirs that it took, and those that it left."""


def heirs(stages: Sequence[Stage], start: int, name: str) -> Iterator[tuple[Stage, Link]]:
    """What each stage after ``start`` made of ``name`` and its heirs.

    Events lead on; where a pass left none, new nodes with a common origin do. Parameters are left
    out. A link that leaves nothing is the end.
    """
    now = {name}
    for before, stage in pairwise(stages[start:]):
        if stage.snapshot is before.snapshot:
            continue
        there = {r.name for r in stage.snapshot if r.op.startswith("call_")}
        links = list(_by_events(stage, now, there))
        known = {n for _, taken, _ in links for n in taken}
        links += _by_origins(stage, before.snapshot, now - there - known)
        for link in links:
            now.difference_update(link[1])
            now.update(link[2])
            yield stage, link
        now &= there


def _by_events(stage: Stage, now: Iterable[str], there: set[str]) -> Iterator[Link]:
    held = set(now)
    for event in stage.events:
        taken = tuple(n for n in event.removed if n in held)
        if not taken:
            continue
        left = tuple(n for n in event.added if n in there) or event.added
        held.difference_update(taken)
        held.update(left)
        yield event.rule, taken, left


def _by_origins(stage: Stage, before: Snapshot, gone: set[str]) -> Iterator[Link]:
    """For what no event accounts for: the new nodes that share an origin."""
    old = {r.name for r in before}
    new = [r for r in stage.snapshot if r.op.startswith("call_") and r.name not in old]
    for record in before:
        if record.name in gone:
            names = {o.node for o in record.origins}
            left = tuple(r.name for r in new if any(o.node in names for o in r.origins))
            yield stage.name, (record.name,), left
