"""What a pass did that no event tells: one that uses plain fx, beside its rewriter.

This is guessed: what went and what came belong together if they derive from a common operation of
the capture. Passes of qfx leave events, which say it.
"""

from __future__ import annotations

from qfx.history.record import NodeRecord
from qfx.history.snapshot import Snapshot


def made_of(record: NodeRecord, before: Snapshot, after: Snapshot) -> tuple[str, ...]:
    """The nodes that are gone ``after`` and that ``record``, which is new there, stands for."""
    stayed = {r.name for r in after}
    return tuple(r.name for r in before if r.name not in stayed and _are_kin(r, record))


def made_from(record: NodeRecord, before: Snapshot, after: Snapshot) -> tuple[str, ...]:
    """The operations that are new ``after`` and stand for ``record``, which is gone there."""
    old = {r.name for r in before}
    new = (r for r in after if r.op.startswith("call_") and r.name not in old)
    return tuple(r.name for r in new if _are_kin(r, record))


def _are_kin(a: NodeRecord, b: NodeRecord) -> bool:
    return not {o.node for o in a.origins}.isdisjoint(o.node for o in b.origins)
