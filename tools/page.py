"""The page of ``visualize.py``: stages on the left, a graph, text or difference on the right."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import qfx
from qfx.history.history import file_name

_STYLE = """
body { margin: 0; display: flex; height: 100vh; font: 14px/1.5 Helvetica, Arial, sans-serif;
  color: #23272e; }
nav { width: 300px; overflow-y: auto; padding: 16px; background: #f7f8fa;
  border-right: 1px solid #d5d9e0; box-sizing: border-box; flex: none; }
h1 { font-size: 15px; margin: 0 0 12px; overflow-wrap: anywhere; }
section { margin-bottom: 12px; }
section b { display: block; }
small { color: #6b7280; display: block; }
a { color: #2462b3; margin-right: 8px; }
iframe { flex: 1; border: 0; background: #fff; }
"""


def page(title: str, history: qfx.History, stages: Sequence[qfx.Stage], out: Path) -> str:
    """HTML that links the files which were written to ``out``."""
    sections, first = [], ""
    if (out / "report.html").exists():
        report = '<a href="report.html" target="view">report</a>'
        sections.append(f"<section><b>what was quantized, and why not</b>{report}</section>")
    for stage in stages:
        name = file_name(stage)
        links = {
            "graph": f"{name}.svg",
            "text": f"{name}.txt",
            "changes": f"diffs/{name}.svg",
            "changes as text": f"diffs/{name}.txt",
        }
        found = {text: file for text, file in links.items() if (out / file).exists()}
        first = first or next(iter(found.values()))
        anchors = "".join(f'<a href="{f}" target="view">{t}</a>' for t, f in found.items())
        change = history.diff(stage.index).summary() if stage.index else "as captured"
        sections.append(
            f"<section><b>{escape(stage.title)}</b>"
            f"<small>{len(stage.snapshot)} nodes, {escape(change)}</small>{anchors}</section>"
        )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><nav><h1>{escape(title)}</h1>{''.join(sections)}</nav>\n"
        f'<iframe name="view" title="graph" src="{first}"></iframe></body></html>\n'
    )
