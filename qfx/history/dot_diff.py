"""A drawing of a difference: added green, removed red, changed amber, moved blue, noted violet."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import pairwise

import graphviz

from qfx.history import dot, listing
from qfx.history.align import reads_others
from qfx.history.diff import GraphDiff
from qfx.history.hunks import merge
from qfx.history.record import NodeRecord

# Fill of a box, and line of a box or edge.
_COLORS = {
    "added": ("#c9efd4", "#2a9d55"),
    "removed": ("#fbd0cd", "#d0453b"),
    "changed": ("#ffe3a3", "#c98a00"),
    "moved": ("#cfe2fb", "#3f7fd0"),
    "noted": ("#e6defa", "#7d5fc4"),
    "unchanged": ("#f2f3f5", "#a3a9b3"),
}
_MOST_ARROWS = 40
_Nodes = dict[str, tuple[str, NodeRecord]]
_Edges = dict[tuple[str, str], str]


def draw_diff(diff: GraphDiff, context: int | None) -> graphviz.Digraph:
    """The nodes that differ and those up to ``context`` edges away; None draws all.

    Dotted arrows lead from what was removed to what took its place; ``…`` stands for what is not
    drawn.
    """
    nodes = _nodes(diff)
    edges = _edges(diff, nodes)
    near = set(nodes) if context is None else _near(nodes, edges, context)
    graph = dot.canvas(len(near))
    paths = listing.attribute_paths(diff.before), listing.attribute_paths(diff.after)
    places = _places(diff)
    for key, (status, record) in nodes.items():
        if key in near:
            graph.node(key, **_box(diff, status, record, paths, places.get(key, "")))
    sources = nodes.keys() - {stop for _, stop in edges} - _inputs(nodes)
    for (start, stop), status in edges.items():
        if start in near and stop in near:
            _edge(graph, start, stop, status, beside=start in sources)
    _ellipses(graph, edges, near)
    for old, new in _successions(diff.replaced):
        start, stop = _gone(old), new
        if start in near and stop in near:
            # It constrains the layout, so that the heir stands beside what it replaced.
            graph.edge(start, stop, style="dotted", minlen="0", color="#6b7280")
    used = {status for key, (status, _) in nodes.items() if key in near}
    title = f"{diff.labels[0]} -> {diff.labels[1]}   {diff.summary()}"
    graph.attr(
        label=dot.legend(
            [(title, "#ffffff"), *((s, c[0]) for s, c in _COLORS.items() if s in used)]
        )
    )
    return graph


def _gone(name: str) -> str:
    return f"{name} (removed)"


def _nodes(diff: GraphDiff) -> _Nodes:
    """Status and record of every box, by its id, in the merged order of both graphs."""
    status = {
        **dict.fromkeys(() if diff else diff.noted, "noted"),
        **dict.fromkeys(diff.moved, "moved"),
        **dict.fromkeys(diff.changed, "changed"),
        **dict.fromkeys(diff.added, "added"),
    }
    removed = set(diff.removed)
    found: _Nodes = {}
    for entry in merge(diff):
        record = entry.record
        if record.op == "get_attr" and not _was_computed(diff, record):
            continue
        if entry.mark != "-":
            found[record.name] = (status.get(record.name, "unchanged"), record)
        elif record.name in removed:
            found[_gone(record.name)] = ("removed", record)
    return found


def _was_computed(diff: GraphDiff, record: NodeRecord) -> bool:
    """Whether a parameter or constant has the place of what was a call."""
    old = diff.was(record.name)
    return old is not None and old.op != "get_attr"


def _edges(diff: GraphDiff, nodes: Mapping[str, object]) -> _Edges:
    """Who reads whom, and whether that is added, removed or unchanged."""
    removed = set(diff.removed)
    now = {was.name: r.name for r in diff.after if (was := diff.was(r.name)) is not None}
    ids = {r.name: _gone(r.name) if r.name in removed else now[r.name] for r in diff.before}
    old = {(ids[n], ids[r.name]) for r in diff.before for n in r.inputs if n in ids}
    found: _Edges = {}
    for record in diff.after:
        for name in record.inputs:
            edge = (name, record.name)
            found[edge] = "unchanged" if edge in old else "added"
    for record in diff.before:
        for name in record.inputs:
            found.setdefault((ids.get(name, name), ids[record.name]), "removed")
    return {(a, b): s for (a, b), s in found.items() if a in nodes and b in nodes}


def _near(nodes: _Nodes, edges: _Edges, distance: int) -> set[str]:
    """Boxes up to ``distance`` edges, in either direction, from one that differs."""
    neighbours: dict[str, list[str]] = {}
    for a, b in edges:
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    steps = {key: 0 for key, (status, _) in nodes.items() if status != "unchanged"}
    queue = deque(steps)
    while queue:
        key = queue.popleft()
        if steps[key] == distance:
            continue
        for other in neighbours.get(key, ()):
            if other not in steps:
                steps[other] = steps[key] + 1
                queue.append(other)
    # What stands between boxes takes no more room than the ellipses in its place.
    between = {k for k, others in neighbours.items() if all(o in steps for o in others)}
    return {*steps, *between}


def _box(
    diff: GraphDiff,
    status: str,
    record: NodeRecord,
    paths: tuple[Mapping[str, str], Mapping[str, str]],
    note: str,
) -> dict[str, str]:
    fill, line = _COLORS[status]
    was = diff.was(record.name) if status == "changed" else None
    note = note if was is None else _was(was, record, *paths)
    attributes = paths[0] if status == "removed" else paths[1]
    style = "filled,rounded,dashed" if status == "removed" else "filled,rounded"
    return {**dot.box(record, attributes, fill=fill, note=note), "color": line, "style": style}


def _places(diff: GraphDiff) -> dict[str, str]:
    """Where each moved node stands now, which edges don't tell."""
    calls = [r.name for r in diff.after if r.op != "get_attr"]
    moved = set(diff.moved)
    return {b: f"now right after %{a}" for a, b in pairwise(calls) if b in moved}


def _was(
    old: NodeRecord, new: NodeRecord, before: Mapping[str, str], after: Mapping[str, str]
) -> str:
    """What a changed node was, in its most telling aspect; "" where the edges tell."""
    if old.name != new.name:
        return f"was %{old.name}"
    if reads_others(old, new):
        return ""
    if old.target != new.target or old.op != new.op:
        return f"was {old.target}"
    if old.args != new.args:
        return f"was {listing.body_text(old, before)}"
    return f"was {old.type_text or 'untyped'}"


def _successions(replaced: Mapping[str, str]) -> list[tuple[str, str]]:
    """Pairs of removed node and heir; when there are many, only the last for each heir."""
    if len(replaced) <= _MOST_ARROWS:
        return list(replaced.items())
    last = {heir: name for name, heir in replaced.items()}
    return [(name, heir) for heir, name in last.items()]


def _inputs(nodes: _Nodes) -> set[str]:
    return {key for key, (_, record) in nodes.items() if record.op == "placeholder"}


def _edge(graph: graphviz.Digraph, start: str, stop: str, status: str, *, beside: bool) -> None:
    """An edge; what is made of weights stands ``beside`` its reader."""
    style = {"style": "dashed"} if status == "removed" else {}
    if beside:
        style["minlen"] = "0"
    graph.edge(start, stop, color=_COLORS[status][1], **style)


def _ellipses(graph: graphviz.Digraph, edges: _Edges, near: set[str]) -> None:
    """One ``…`` above and one below each box whose neighbours are left out."""
    above = dict.fromkeys(b for a, b in edges if b in near and a not in near)
    below = dict.fromkeys(a for a, b in edges if a in near and b not in near)
    for kind, keys in (("above", above), ("below", below)):
        for key in keys:
            dots = f"{kind} {key}"
            graph.node(dots, label="…", shape="plain", style="", fontcolor="#8a919c")
            graph.edge(*((dots, key) if kind == "above" else (key, dots)), style="dashed")
