"""A history as one web page: a row for each stage, that opens to what it did and to its graph.

The page holds its style and no script, loads nothing (its content policy forbids it to), and shows
every name of the user's model escaped. It is deterministic: two pages of one history are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from qfx.history.events import NearMiss, rules_table
from qfx.history.stage import Stage

if TYPE_CHECKING:
    from qfx.history.history import History

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; padding: 1.5rem; max-width: 110rem; font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; }
details { border-top: 1px solid #8886; padding: .3rem 0; }
details details { margin-left: 1.5rem; }
summary { cursor: pointer; }
summary b { display: inline-block; min-width: 16rem; }
summary small { opacity: .75; }
pre { overflow-x: auto; font: .85em/1.45 ui-monospace, monospace; margin: .5rem 0 .5rem 1.5rem; }
.added { color: #1a7f4b; }
.removed { color: #c0392b; }
.place { color: #2462b3; }
@media (prefers-color-scheme: dark) {
  .added { color: #6fd39b; } .removed { color: #ff9b8e; } .place { color: #8ab8ff; }
}
"""

_MOST_MISSES = 200


def history_page(history: History) -> str:
    """The whole page."""
    title = "Stages" if history.region == "main" else f"Stages of {escape(history.region)}"
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{_STYLE}</style></head>",
            f"<body><h1>{title}</h1><main>",
            *(line for stage in history for line in _stage(history, stage)),
            "</main></body></html>\n",
        )
    )


def _stage(history: History, stage: Stage) -> Iterator[str]:
    step = history.diff(stage.index)
    change = step.summary() if stage.index else "as captured"
    fired = ", ".join(f"{rule} x{count}" for rule, count in stage.fired.items())
    facts = "; ".join(fact for fact in (f"{len(stage.snapshot)} nodes", change, fired) if fact)
    yield f"<details><summary><b>{escape(stage.title)}</b> <small>{escape(facts)}</small></summary>"
    if stage.index and step:
        yield from _block("what it changed", _coloured(step.to_text()))
    yield from _block("the graph", escape(stage.snapshot.to_text()))
    if stage.near_misses:
        yield from _block("where rules nearly applied", escape(_misses(stage.near_misses)))
    if stage.statistics:
        yield from _block("its rules", escape(rules_table(stage.statistics, timed=False)))
    yield "</details>"


def _block(title: str, content: str) -> Iterator[str]:
    yield f"<details><summary>{title}</summary><pre>{content}</pre></details>"


def _misses(misses: tuple[NearMiss, ...]) -> str:
    more = len(misses) - _MOST_MISSES
    lines = [str(miss) for miss in misses[:_MOST_MISSES]]
    return "\n".join([*lines, f"... and {more} more"] if more > 0 else lines)


_CLASSES = {"+": "added", "-": "removed", "@": "place"}


def _coloured(text: str) -> str:
    """A difference, its lines coloured by what they say."""
    return "\n".join(map(_line, text.splitlines()))


def _line(text: str) -> str:
    kind = _CLASSES.get(text[:1])
    return escape(text) if kind is None else f'<span class="{kind}">{escape(text)}</span>'
