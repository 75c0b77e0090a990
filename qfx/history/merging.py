"""The histories of the regions of one model as one: nodes are addressed ``region:node``.

The regions ran the same passes: stage after stage, the nodes of all of them stand below each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import zip_longest

from qfx.graph.text import REFERENCE
from qfx.history.events import Event, NearMiss
from qfx.history.history import History
from qfx.history.record import NodeRecord, digest_of
from qfx.history.snapshot import Snapshot
from qfx.history.stage import Stage


def merged_history(histories: Mapping[str, History]) -> History:
    """One history of several, by region.

    Where one has a stage that the others lack (a kernel that was put back to float is lowered
    again), the others stand still.
    """
    made = {region: list(_addressed(region, stages)) for region, stages in histories.items()}
    merged = History()
    last: dict[str, Stage] = {}
    for column in zip_longest(*made.values()):
        present = [stage for stage in column if stage is not None]
        last.update({r: s for r, s in zip(made, column, strict=True) if s is not None})
        records = [record for region in made for record in last[region].snapshot.records]
        merged.append(
            Stage(
                len(merged),
                present[0].name,
                Snapshot(records),
                tuple(event for stage in present for event in stage.events),
                sum(stage.seconds for stage in present),
                tuple(miss for stage in present for miss in stage.near_misses),
            )
        )
    return merged


def address(region: str, name: str) -> str:
    """How a node of a region is called in the whole."""
    return f"{region}:{name}" if name else ""


def _addressed(region: str, history: History) -> Iterator[Stage]:
    known: dict[int, NodeRecord] = {}  # of records that stages share, what is made of them
    for stage in history:
        for record in stage.snapshot.records:
            if id(record) not in known:
                known[id(record)] = _record(region, record)
        yield replace(
            stage,
            snapshot=Snapshot([known[id(record)] for record in stage.snapshot.records]),
            events=tuple(_event(region, event) for event in stage.events),
            near_misses=tuple(_near_miss(region, miss) for miss in stage.near_misses),
        )


def _record(region: str, record: NodeRecord) -> NodeRecord:
    name = address(region, record.name)
    args = REFERENCE.sub(lambda found: _reference(region, found[1]), record.args)
    origins = tuple(replace(o, node=address(region, o.node)) for o in record.origins)
    digest = digest_of(name, record.op, record.target, record.path, args, record.value)
    return replace(record, name=name, args=args, origins=origins, digest=digest)


def _reference(region: str, name: str) -> str:
    return "%%" if name == "%" else f"%{address(region, name)}"


def _event(region: str, event: Event) -> Event:
    def at(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(address(region, name) for name in names)

    return replace(
        event, removed=at(event.removed), added=at(event.added), changed=at(event.changed)
    )


def _near_miss(region: str, miss: NearMiss) -> NearMiss:
    return replace(miss, node=address(region, miss.node))
