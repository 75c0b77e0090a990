"""Drawings of snapshots for Graphviz.

Boxes show operation, attributes, name and type, coloured by kind; integer values flow along green
edges, float ones along grey. Parameters are not drawn: they stand in the tooltip with the node's
whole line. Nodes of one module are framed together, unless it has a single one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape

import graphviz

from qfx.errors import ConfigError
from qfx.graph.findings import findings_text
from qfx.history import listing
from qfx.history.kinds import Look, is_integer, look
from qfx.history.record import NodeRecord
from qfx.history.snapshot import Snapshot

_FONT = "Helvetica,Arial,sans-serif"
_LARGE = 400
"""Nodes above which quality of layout gives way to time."""
_LONGEST = 40
_DIGITS = re.compile(r"\d+\.\d{6,}(?:e[+-]?\d+)?")
_FRAMES = ("#f7f8fa", "#ffffff")
_INTEGER_EDGE, _FLOAT_EDGE = "#2f9e66", "#8a919c"


def draw_snapshot(view: Snapshot, frames: str | None = None) -> graphviz.Digraph:
    """All nodes but parameters, framed by module, with a legend of the colours in use.

    With ``frames`` those are framed together of which passes recorded the same under that name.
    """
    shown = drawn(view)
    attributes = listing.attribute_paths(view)
    values = {r.name: r.value for r in view}
    looks = {r.name: look(r, values) for r in shown}
    frame = _Frame("")
    paths = _containers(shown) if frames is None else _recorded(shown, frames)
    for record in shown:
        kind = looks[record.name]
        attrs = box(record, attributes, fill=kind.fill, text=kind.text)
        frame.place(record.name, paths[record.name], attrs)
    graph = canvas(len(shown))
    frame.draw(graph, least=2 if frames is None else 1)
    sources = {r.name for r in shown if r.op != "placeholder" and looks.keys().isdisjoint(r.inputs)}
    for record in shown:
        for name in record.inputs:
            if name in looks:
                style = {"color": _INTEGER_EDGE} if is_integer(values[name]) else {}
                if name in sources:
                    style["minlen"] = "0"  # what is made of weights stands beside its reader
                graph.edge(name, record.name, **style)
    used = set(looks.values())
    graph.attr(label=legend((kind.title, kind.fill) for kind in Look if kind in used))
    return graph


def drawn(view: Snapshot) -> list[NodeRecord]:
    """The nodes that get a box."""
    return [r for r in listing.visible(view.records) if r.op != "get_attr"]


def canvas(size: int) -> graphviz.Digraph:
    """An empty drawing for ``size`` nodes."""
    large = {"splines": "polyline", "nslimit": "2", "mclimit": "0.5"} if size > _LARGE else {}
    graph = graphviz.Digraph(
        "qfx",
        graph_attr={
            "rankdir": "TB", "newrank": "true", "nodesep": "0.25", "ranksep": "0.35",
            "fontname": _FONT, "fontsize": "11", "labelloc": "t", "labeljust": "l",
            "bgcolor": "white", **large,
        },
        node_attr={
            "shape": "box", "style": "filled,rounded", "fontname": _FONT, "fontsize": "11",
            "margin": "0.14,0.06", "height": "0.3", "penwidth": "0.8", "color": "#0000002a",
            "fillcolor": Look.FLOAT.fill, "fontcolor": Look.FLOAT.text,
        },
        edge_attr={
            "color": _FLOAT_EDGE, "arrowsize": "0.6", "penwidth": "1.2", "fontname": _FONT,
            "fontsize": "9",
        },
    )  # fmt: skip
    return graph


def box(
    record: NodeRecord,
    attributes: Mapping[str, str],
    *,
    fill: str,
    text: str = Look.FLOAT.text,
    note: str = "",
) -> dict[str, str]:
    """Graphviz attributes of a node's box; ``note`` is a further line of its label."""
    line = listing.layout([listing.row(record, attributes)])[0]
    found = {"label": _label(record, note), "tooltip": line.replace("\\", "\\\\")}
    if fill != Look.FLOAT.fill:
        found["fillcolor"] = fill
    if text != Look.FLOAT.text:
        found["fontcolor"] = text
    return found


def _label(record: NodeRecord, note: str) -> str:
    named = {"placeholder": record.name, "output": "output", "get_attr": f"@{record.path}"}
    title = named.get(record.op, record.target)
    lines = [f"<B>{escape(_short(title))}</B>"]
    settings = "" if record.op == "output" else _short(", ".join(_settings(record.args)))
    name = "" if record.op in ("placeholder", "output") else f"%{record.name}"
    found = findings_text(record.findings)
    small = [settings, "  ".join(t for t in (name, record.type_text) if t), found, note]
    lines += [f'<FONT POINT-SIZE="9">{escape(_short(t, 60))}</FONT>' for t in small if t]
    return f"<{'<BR/>'.join(lines)}>"


def _short(text: str, most: int = _LONGEST) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _settings(args: str) -> Iterator[str]:
    """The arguments that are no operands: literals and attributes without a reference, rounded."""
    for part in _split(args):
        text = part.replace("%%", "")
        if "%" not in text:
            yield _DIGITS.sub(lambda found: f"{float(found[0]):.5g}", part.replace("%%", "%"))


def _split(args: str) -> Iterator[str]:
    """Cut an argument text at its outermost commas."""
    depth, start, quote = 0, 0, ""
    for position, char in enumerate(args):
        if quote:
            quote = "" if char == quote and args[position - 1] != "\\" else quote
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and not depth:
            yield args[start:position].strip()
            start = position + 1
    if args[start:].strip():
        yield args[start:].strip()


def legend(colors: Iterable[tuple[str, str]]) -> str:
    """An HTML-like label of coloured cells, from their titles and fills; "" for none."""
    cells = "".join(_cell(title, fill) for title, fill in colors)
    table = '<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="4" CELLPADDING="4">'
    return f"<{table}<TR>{cells}</TR></TABLE>>" if cells else ""


def _cell(title: str, fill: str) -> str:
    color = Look.BOUNDARY.text if fill == Look.BOUNDARY.fill else Look.FLOAT.text
    font = f'<FONT COLOR="{color}" POINT-SIZE="10">{escape(title)}</FONT>'
    return f'<TD BGCOLOR="{fill}">{font}</TD>'


class _Frame:
    """A module: the boxes directly in it and the modules within it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.boxes: list[tuple[str, dict[str, str]]] = []
        self.frames: dict[str, _Frame] = {}
        self.size = 0

    def place(self, name: str, parts: list[str], attributes: dict[str, str]) -> None:
        """Put a box in the frame of the module ``parts``, making the frames on the way."""
        frame, path = self, ""
        frame.size += 1
        for part in parts:
            path = f"{path}.{part}" if path else part
            frame = frame.frames.setdefault(part, _Frame(path))
            frame.size += 1
        frame.boxes.append((name, attributes))

    def draw(self, graph: graphviz.Digraph, depth: int = 0, *, least: int) -> None:
        """Draw what is inside; frames of less than ``least``, or around all of ours, are left out.

        Args:
            graph: to draw in.
            depth: how many frames this one is in.
            least: how many nodes a frame has at least.
        """
        for name, attributes in self.boxes:
            graph.node(name, **attributes)
        for inner in self.frames.values():
            if inner.size < least or inner.size == self.size:
                inner.draw(graph, depth, least=least)
                continue
            with graph.subgraph(name=f"cluster_{inner.path}") as cluster:
                cluster.attr(
                    label=_relative(inner.path, self.path), style="filled,rounded", penwidth="0.8",
                    color="#d5d9e0", fillcolor=_FRAMES[depth % 2], fontcolor="#6b7280",
                    fontsize="10", tooltip=inner.path,
                )  # fmt: skip
                inner.draw(cluster, depth + 1, least=least)


def _containers(records: Iterable[NodeRecord]) -> dict[str, list[str]]:
    """For each node the path of the module to frame it with: the one whose forward held it.

    A leaf module, recognised by the capital of its class, is no frame: a ReLU called in two places
    would drag them together. A node without provenance goes with its first operand.
    """
    found: dict[str, list[str]] = {}
    for record in records:
        if record.op in ("placeholder", "output"):
            found[record.name] = []
            continue
        if not record.origins:
            found[record.name] = next((found[n] for n in record.inputs if n in found), [])
            continue
        parts = record.module_path.split(".") if record.module_path else []
        leaf = record.origins[0].type_name.rpartition(".")[2][:1].isupper()
        found[record.name] = parts[:-1] if leaf else parts
    return found


def _recorded(records: Iterable[NodeRecord], name: str) -> dict[str, list[str]]:
    """For each node the frame of those with the same finding; none where it has no such."""
    found = {r.name: dict(r.findings) for r in records}
    if not any(name in each for each in found.values()):
        raise ConfigError(
            f"no pass recorded {name!r} of a node here; ctx.record(node, {name!r}, ...)"
        )
    return {n: [f"{name}={each[name]}"] if name in each else [] for n, each in found.items()}


def _relative(path: str, outer: str) -> str:
    return path[len(outer) + 1 :] if outer and path.startswith(f"{outer}.") else path
