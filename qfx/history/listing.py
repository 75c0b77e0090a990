"""The IR as text: one node a line, aligned, deterministic.

::

    %conv1_relu : f32[1,8,32,32] = conv2d+relu(%x, @conv1.weight)   # from conv1, relu  model.py:12

A ``get_attr`` node is written at its readers as ``@qualified.name`` and has a line of its own only
when the graph returns it, or nothing reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qfx.graph.findings import findings_text
from qfx.graph.text import REFERENCE

if TYPE_CHECKING:
    from qfx.history.record import NodeRecord

_NAME_COLUMN, _TYPE_COLUMN, _COMMENT_COLUMN = 40, 24, 150
"""Widest a column gets for alignment's sake; longer texts overflow."""

_MOST_ORIGINS = 6


@dataclass(frozen=True, slots=True)
class Row:
    """One line before alignment; ``mark`` stands left of everything."""

    head: str
    type_text: str
    body: str
    comment: str = ""
    mark: str = ""


def line(record: NodeRecord, among: Iterable[NodeRecord] = ()) -> str:
    """One node on its own; parameters appear by qualified name when found ``among`` others."""
    return layout([row(record, attribute_paths(among))])[0]


def lines(records: Sequence[NodeRecord], among: Iterable[NodeRecord]) -> list[str]:
    """A line for each of some nodes, aligned; parameters by qualified name as in :func:`line`."""
    attributes = attribute_paths(among)
    return layout([row(record, attributes, provenance=False) for record in records])


def listing(records: Sequence[NodeRecord], *, provenance: bool = True) -> str:
    """All nodes, a line each, ending in a newline."""
    attributes = attribute_paths(records)
    rows = [row(r, attributes, provenance=provenance) for r in visible(records)]
    return "".join(f"{text}\n" for text in layout(rows))


def excerpt(records: Sequence[NodeRecord], centre: NodeRecord, context: int) -> str:
    """The lines up to ``context`` away from ``centre``, which is marked with ``>``."""
    attributes = attribute_paths(records)
    shown = set(map(id, visible(records)))
    near = [r for r in records if r is centre or id(r) in shown]
    position = near.index(centre)
    near = near[max(0, position - context) : position + context + 1]
    rows = [row(r, attributes, mark="> " if r is centre else "  ") for r in near]
    return "".join(f"{text}\n" for text in layout(rows))


def attribute_paths(records: Iterable[NodeRecord]) -> dict[str, str]:
    """Qualified names of the parameters and buffers, by node."""
    return {r.name: r.path for r in records if r.op == "get_attr"}


def visible(records: Sequence[NodeRecord]) -> list[NodeRecord]:
    """The nodes that get a line."""
    returned: set[str] = set()
    read: set[str] = set()
    for record in records:
        (returned if record.op == "output" else read).update(record.inputs)
    inlined = read - returned
    return [r for r in records if r.op != "get_attr" or r.name not in inlined]


def resolve(template: str, attributes: Mapping[str, str]) -> str:
    """An argument template as printed: parameters by qualified name, nodes as ``%name``."""

    def replace(found: re.Match[str]) -> str:
        name = found[1]
        if name == "%":
            return "%"
        return f"@{attributes[name]}" if name in attributes else f"%{name}"

    return REFERENCE.sub(replace, template) if "%" in template else template


def row(
    record: NodeRecord,
    attributes: Mapping[str, str],
    *,
    provenance: bool = True,
    mark: str = "",
    note: str = "",
) -> Row:
    """One node before alignment; ``note`` is added to its comment."""
    said = provenance_text(record) if provenance else ""
    comment = "  ".join(t for t in (said, findings_text(record.findings), note) if t)
    if record.op == "output":
        return Row("", "", f"return {resolve(record.args, {})}", comment, mark)
    body = body_text(record, attributes)
    return Row(f"%{record.name}", record.type_text, body, comment, mark)


def body_text(record: NodeRecord, attributes: Mapping[str, str]) -> str:
    """What stands right of ``=``."""
    args = resolve(record.args, attributes)
    if record.op == "get_attr":
        return f"@{record.path}"
    if record.op == "placeholder":
        return f"input({args})" if args else "input"
    if record.op == "call_module":
        return f"{record.target}[@{record.path}]({args})"
    return f".{record.target}({args})" if record.op == "call_method" else f"{record.target}({args})"


def provenance_text(record: NodeRecord) -> str:
    """``from conv1, relu  model.py:12``, leaving out what the name already says."""
    names = [o.node for o in record.origins]
    more = len(names) - _MOST_ORIGINS
    listed = ", ".join(names[:_MOST_ORIGINS]) + (f" and {more} more" if more > 0 else "")
    parts = [f"from {listed}" if names and names != [record.name] else "", record.source]
    return "  ".join(p for p in parts if p)


def layout(rows: Sequence[Row]) -> list[str]:
    """Align names, types and comments."""
    name_width = _width((r.head for r in rows), _NAME_COLUMN)
    type_width = _width((f" : {r.type_text}" for r in rows if r.type_text), _TYPE_COLUMN + 3)
    lefts = [_left(r, name_width, type_width) for r in rows]
    commented = (left for left, r in zip(lefts, rows, strict=True) if r.comment)
    width = _width(commented, _COMMENT_COLUMN)
    return [
        f"{left.ljust(width)}   # {r.comment}" if r.comment else left
        for left, r in zip(lefts, rows, strict=True)
    ]


def _left(row: Row, name_width: int, type_width: int) -> str:
    if not row.head:
        return row.mark + row.body
    kind = f" : {row.type_text}" if row.type_text else ""
    return f"{row.mark}{row.head.ljust(name_width)}{kind.ljust(type_width)} = {row.body}"


def _width(texts: Iterable[str], most: int) -> int:
    """Width of the widest text that fits in ``most``."""
    return max((len(t) for t in texts if len(t) <= most), default=0)
