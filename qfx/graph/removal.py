"""Which pass removed a captured operation: the first after which no node derives from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from qfx.graph.blame import RecordedStage
from qfx.graph.snapshot import Snapshot


def removers(stages: Sequence[RecordedStage], names: Iterable[str]) -> dict[str, str]:
    """For each captured operation that is gone, "pass/rule" or the pass that removed it.

    Args:
        stages: from the capture on.
        names: nodes of the capture; those that are still there have no entry in the result.
    """
    found: dict[str, str] = {}
    left = set(names)
    for before, after in pairwise(stages):
        if not left:
            break
        if after.snapshot is before.snapshot:
            continue
        gone = left - _alive(after.snapshot, left)
        found.update((name, _by(after, before.snapshot, name)) for name in gone)
        left -= gone
    return found


def _alive(view: Snapshot, names: set[str]) -> set[str]:
    return {o.node for record in view for o in record.origins if o.node in names}


def _by(stage: RecordedStage, before: Snapshot, name: str) -> str:
    """The rule that removed the last node that derived from ``name``, else the pass."""
    if not stage.events:
        return stage.name
    held = {r.name for r in before if any(o.node == name for o in r.origins)}
    rules = [e.rule for e in stage.events if not held.isdisjoint(e.removed)]
    return rules[-1] if rules else stage.name
