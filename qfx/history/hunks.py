"""A difference as lines: both graphs merged into one order, then cut into hunks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qfx.history import listing
from qfx.history.record import NodeRecord

if TYPE_CHECKING:
    from qfx.history.diff import GraphDiff


@dataclass(frozen=True, slots=True)
class DiffLine:
    """A node as a diff shows it: ``-`` removed, ``+`` added, ``>`` moved, ``*`` noted, " " not.

    A changed node is two entries, ``-`` as it was and ``+`` as it is.
    """

    mark: str
    record: NodeRecord


def merge(diff: GraphDiff) -> list[DiffLine]:
    """Both graphs in the order of ``after``; what was replaced stands right before its heir."""
    changed, added, moved = set(diff.changed), set(diff.added), set(diff.moved)
    marks = {**dict.fromkeys(() if diff else diff.noted, "*"), **dict.fromkeys(moved, ">")}
    place = {r.name: i for i, r in enumerate(diff.before)}
    gone_names = set(diff.removed)
    removed = [r for r in diff.before if r.name in gone_names]
    orphans = deque(r for r in removed if r.name not in diff.replaced)
    claimed: dict[str, list[NodeRecord]] = {}
    for record in removed:
        if record.name in diff.replaced:
            claimed.setdefault(diff.replaced[record.name], []).append(record)
    shown = {id(r) for view in (diff.before, diff.after) for r in listing.visible(view.records)}
    merged: list[DiffLine] = []
    for record in diff.after:
        old = diff.was(record.name)
        if old is not None and record.name not in moved:
            limit = place[old.name]
            while orphans and place[orphans[0].name] < limit:
                merged.append(DiffLine("-", orphans.popleft()))
        if record.name not in changed and record.name not in added:
            merged.append(DiffLine(marks.get(record.name, " "), record))
            continue
        if old is not None and old.path != record.path:
            shown.update((id(old), id(record)))  # a parameter retargeted: its readers don't tell
        gone = claimed.get(record.name, []) + ([] if old is None else [old])
        merged += [DiffLine("-", r) for r in sorted(gone, key=lambda r: place[r.name])]
        merged.append(DiffLine("+", record))
    merged += [DiffLine("-", r) for r in orphans]
    return [e for e in merged if id(e.record) in shown]


def cut(entries: Sequence[DiffLine], context: int) -> Iterator[Sequence[DiffLine]]:
    """Runs of entries that hold a difference, with up to ``context`` unchanged ones around it."""
    start, stop = 0, 0
    for position, entry in enumerate(entries):
        if entry.mark == " ":
            continue
        if stop and position - context > stop:
            yield entries[start:stop]
            stop = 0
        if not stop:
            start = max(0, position - context)
        stop = min(len(entries), position + context + 1)
    if stop:
        yield entries[start:stop]


def text_of(diff: GraphDiff, context: int) -> str:
    """All hunks, each under its module and the lines it takes in the text of ``after``."""
    old = listing.attribute_paths(diff.before)
    new = listing.attribute_paths(diff.after)
    lines = {id(r): i for i, r in enumerate(listing.visible(diff.after.records), start=1)}
    texts = []
    for hunk in cut(merge(diff), context):
        rows = [_row(entry, old if entry.mark == "-" else new) for entry in hunk]
        texts += [_place(hunk, lines), *listing.layout(rows)]
    return "".join(f"{text}\n" for text in texts)


def _row(entry: DiffLine, attributes: Mapping[str, str]) -> listing.Row:
    note = "moved" if entry.mark == ">" else ""
    return listing.row(entry.record, attributes, mark=f"{entry.mark} ", note=note)


def _place(hunk: Sequence[DiffLine], lines: Mapping[int, int]) -> str:
    path = next((e.record.module_path for e in hunk if e.mark != " "), "")
    numbers = [lines[id(e.record)] for e in hunk if e.mark != "-" and id(e.record) in lines]
    parts = [path] if path else []
    parts += [f"lines {numbers[0]}-{numbers[-1]}"] if numbers else []
    return f"@@ {', '.join(parts)} @@"
