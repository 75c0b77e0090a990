"""Which pass removed a captured operation: the first after which no node derives from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from qfx.history.snapshot import Snapshot
from qfx.history.stage import Stage


def removers(stages: Sequence[Stage], names: Iterable[str]) -> dict[str, str]:
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
        found.update(_by(after, before.snapshot, gone))
        left -= gone
    return found


def _alive(view: Snapshot, names: set[str]) -> set[str]:
    return {o.node for record in view for o in record.origins if o.node in names}


def _by(stage: Stage, before: Snapshot, gone: set[str]) -> dict[str, str]:
    """For each operation the rule that removed the last node that derived from it.

    Of a pass that did so with plain fx there is no event, and it is the pass.
    """
    removed = {
        node: position for position, event in enumerate(stage.events) for node in event.removed
    }
    last: dict[str, int] = {}
    for record in before:
        for origin in record.origins:
            if origin.node in gone and record.name in removed:
                last[origin.node] = max(removed[record.name], last.get(origin.node, 0))
    return {name: stage.events[last[name]].rule if name in last else stage.name for name in gone}
