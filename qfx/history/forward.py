"""What became of a node: the chain from a stage on to the last, the counterpart of blame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from qfx.history import plain_fx
from qfx.history.align import reads_others
from qfx.history.snapshot import Snapshot

if TYPE_CHECKING:
    from qfx.history.stage import Stage

Link = tuple[str, tuple[str, ...], tuple[str, ...]]
"""A rule, the heirs that it took, and those that it left."""


def altered(name: str, before: Snapshot, after: Snapshot) -> bool:
    """Whether a node that stayed does something else, or yields it, rather than read others."""
    was, now = (next((r for r in view if r.name == name), None) for view in (before, after))
    return was is not None and now is not None and not reads_others(was, now)


def heirs(stages: Sequence[Stage], start: int, name: str) -> Iterator[tuple[Stage, Link]]:
    """What each stage after ``start`` made of ``name`` and its heirs.

    Events lead on, and past what plain fx did :mod:`qfx.history.plain_fx`. Parameters are left
    out. A link that leaves nothing is the end.
    """
    now = {name}
    for before, stage in pairwise(stages[start:]):
        if stage.snapshot is before.snapshot:
            continue
        there = {r.name for r in stage.snapshot if r.op.startswith("call_")}
        links = list(_by_events(stage, before.snapshot, now, there))
        known = {n for _, taken, _ in links for n in taken}
        links += _by_plain_fx(stage, before.snapshot, now - there - known)
        for link in links:
            now.difference_update(link[1])
            now.update(link[2])
            yield stage, link
        now &= there


def _by_events(
    stage: Stage, before: Snapshot, now: Iterable[str], there: set[str]
) -> Iterator[Link]:
    held, told = set(now), set[str]()
    for event in stage.events:
        for name in held.intersection(event.changed) - told:
            if altered(name, before, stage.snapshot):
                told.add(name)
                yield event.rule, (name,), (name,)
        taken = tuple(n for n in event.removed if n in held)
        if not taken:
            continue
        left = tuple(n for n in event.added if n in there) or event.added
        held.difference_update(taken)
        held.update(left)
        yield event.rule, taken, left


def _by_plain_fx(stage: Stage, before: Snapshot, gone: set[str]) -> Iterator[Link]:
    for record in before:
        if record.name in gone:
            left = plain_fx.made_from(record, before, stage.snapshot)
            yield stage.name, (record.name,), left
