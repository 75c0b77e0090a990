"""A history as JSON: each record once, and stages as lists of their numbers.

A history that is stored is read when it is first looked at; until then it is bytes of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from os import PathLike
from typing import overload

from qfx.errors import ConfigError
from qfx.history.blame import Blame
from qfx.history.events import Event, NearMiss
from qfx.history.history import History
from qfx.history.record import NodeRecord, digest_of
from qfx.history.snapshot import Snapshot
from qfx.history.stage import Stage
from qfx.storage.facts import FactWriter, Numbered
from qfx.storage.fields import Fields, Json
from qfx.storage.findings import read_findings, write_findings
from qfx.storage.shapes import read_shape, write_shape

_OPS = ("placeholder", "get_attr", "call_module", "call_method", "call_function", "output")


class StoredHistory(History):
    """A history that is read from a file when it is first looked at.

    Args:
        read: reads the stages.
    """

    def __init__(self, read: Callable[[], list[Stage]]) -> None:
        self._read = read

    @cached_property
    def _stages(self) -> list[Stage]:  # type: ignore[override]
        return self._read()


class UnkeptHistory(History):
    """The history of a model whose file holds none: it has no stage, and says why."""

    missing = "the file was saved without its history; qfx.save(..., history=True) keeps it"

    def __init__(self, stages: Iterable[Stage] = (), *, region: str = "") -> None:
        super().__init__(stages)
        self._region = region or "main"

    @property
    def region(self) -> str:
        return self._region

    @overload
    def __getitem__(self, which: int | str) -> Stage: ...
    @overload
    def __getitem__(self, which: slice) -> list[Stage]: ...
    def __getitem__(self, which: int | str | slice) -> Stage | list[Stage]:
        self._check()
        return super().__getitem__(which)

    def __copy__(self) -> History:
        return UnkeptHistory(self._stages, region=self._region)

    def __deepcopy__(self, memo: dict[int, object]) -> History:
        return UnkeptHistory(self._stages, region=self._region)

    def __repr__(self) -> str:
        return super().__repr__() if self._stages else f"<History: {self.missing}>"

    def __str__(self) -> str:
        return super().__str__() if self._stages else self.missing

    def blame(self, node_name: str) -> Blame:
        """ConfigError, as there is nothing to trace."""
        self._check()
        return super().blame(node_name)

    def dump(self, directory: str | PathLike[str]) -> None:
        """ConfigError, as there is nothing to write."""
        self._check()
        super().dump(directory)

    def _check(self) -> None:
        if not self._stages:
            raise ConfigError(self.missing)


# -- writing -------------------------------------------------------------------------------------
def write_history(history: History) -> dict[str, Json]:
    """A history as JSON."""
    numbers: dict[int, int] = {}
    records: list[Json] = []
    facts = FactWriter()
    stages: list[Json] = []
    for stage in history:
        shown: list[Json] = []
        for record in stage.snapshot:
            if id(record) not in numbers:
                numbers[id(record)] = len(records)
                records.append(_write_record(record, facts))
            shown.append(numbers[id(record)])
        stages.append(_write_stage(stage, shown))
    return {"records": records, "stages": stages, "tables": facts.tables()}


def _write_record(record: NodeRecord, facts: FactWriter) -> Json:
    said: list[Json] = [record.name, record.op, record.target, record.path, record.args]
    origins: list[Json] = [facts.origin(origin) for origin in record.origins]
    found: list[Json] = [write_findings(record.findings)] if record.findings else []
    return [*said, write_shape(record.value), origins, facts.rule(record.rule), *found]


def _write_stage(stage: Stage, records: list[Json]) -> Json:
    events: list[Json] = [
        [e.rule, e.source, list(e.removed), list(e.added), list(e.changed)] for e in stage.events
    ]
    misses: list[Json] = [[m.rule, m.node, m.reason, m.source] for m in stage.near_misses]
    return {
        "name": stage.name,
        "region": stage.snapshot.region,
        "seconds": stage.seconds,
        "records": records,
        "events": events,
        "near_misses": misses,
    }


# -- reading -------------------------------------------------------------------------------------
def read_history(fields: Fields) -> list[Stage]:
    """The stages that JSON describes.

    Raises:
        FormatError: it describes none.
    """
    numbered = Numbered(fields.record("tables"))
    records = [_read_record(fields, value, numbered) for value in fields.items("records")]
    stages: list[Stage] = []
    for each in fields.records("stages"):
        shown = each.integers("records", 0, len(records) - 1)
        snapshot = Snapshot([records[number] for number in shown], region=each.text("region"))
        if stages and stages[-1].snapshot.records == snapshot.records:  # the very same ones
            snapshot = stages[-1].snapshot
        stages.append(
            Stage(
                len(stages),
                each.text("name"),
                snapshot,
                tuple(_read_event(each, value) for value in each.items("events")),
                each.number("seconds"),
                tuple(_read_miss(each, value) for value in each.items("near_misses")),
            )
        )
        each.close()
    fields.close()
    return stages


def _read_record(fields: Fields, value: object, numbered: Numbered) -> NodeRecord:
    right = type(value) is list and len(value) in (8, 9) and all(type(v) is str for v in value[:5])
    if type(value) is not list or not right or value[1] not in _OPS or type(value[6]) is not list:
        fields.refuse("records", "holds something that is no record")
    name, op, target, path, args = value[:5]
    shape = read_shape(value[5], f"{fields.place}.records")
    origins = tuple(numbered.origin(number, fields.place) for number in value[6])
    rule = numbered.rule(value[7], fields.place)
    digest = digest_of(name, op, target, path, args, shape)
    found = read_findings(value[8:], f"{fields.place}.records")
    return NodeRecord(name, op, target, path, args, shape, origins, rule, 0, digest, found)


def _read_event(fields: Fields, value: object) -> Event:
    right = type(value) is list and len(value) == 5 and all(type(v) is str for v in value[:2])
    if type(value) is not list or not right or not all(map(_is_names, value[2:])):
        fields.refuse("events", "holds something that is no event")
    rule, source, removed, added, changed = value
    return Event(rule, tuple(removed), tuple(added), source, tuple(changed))


def _is_names(value: object) -> bool:
    return type(value) is list and all(type(each) is str for each in value)


def _read_miss(fields: Fields, value: object) -> NearMiss:
    if type(value) is not list or len(value) != 4 or not _is_names(value):
        fields.refuse("near_misses", "holds something that is no near miss")
    return NearMiss(*value)
