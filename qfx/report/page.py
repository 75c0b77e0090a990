"""The report as one web page: a summary, and a table to sort, search and filter.

The page holds its style and script, loads nothing (its content policy forbids it to), and shows
every name of the user's model escaped. Without scripts the table is complete, and plain.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from qfx.graph.findings import Finding, finding_text
from qfx.report.page_assets import SCRIPT, STYLE
from qfx.report.text import covered, facts, finding_names, heads, size_ratio
from qfx.table import amount, byte_count

if TYPE_CHECKING:
    from qfx.report.sites import QuantizationReport, Site

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_COLUMNS = (
    "#",
    "Site",
    "Operation",
    "Decision",
    "Kernel or reason",
    "What to do",
    "MACs",
    "Source",
)
_STATES = ("quantized", "float", "removed")


def report_page(report: QuantizationReport) -> str:
    """The whole page."""
    title = f"Quantization report: {escape(report.backend)}"
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{title}</title><style>{STYLE}</style></head>",
            f"<body><header><h1>{title}</h1></header><main>",
            *_summary(report),
            *_facts(report),
            *_warnings(report),
            *_reasons(report),
            *_table(report),
            f"</main><script>{SCRIPT}</script></body></html>\n",
        )
    )


def _summary(report: QuantizationReport) -> Iterator[str]:
    before, after = report.size_bytes
    yield '<section class="cards" aria-label="Summary">'
    yield "<div><h2>Multiply-accumulates quantized</h2>"
    if report.coverage is None:
        yield '<p class="big">none to count</p></div>'
    elif report.unknown:
        yield f'<p class="big">{covered(report)}</p></div>'
    else:
        share = f"{report.coverage:.1%}"
        yield f'<p class="big">{share}</p>{_bar(report.coverage, f"{share} of MACs")}</div>'
    yield "<div><h2>Operations</h2>"
    yield f'<p class="big">{len(report.sites)}</p><ul>'
    for state, count in report.counts.items():
        yield f'<li><span class="state {state}">{state}</span> {count}</li>'
    yield "</ul></div>"
    yield "<div><h2>Parameters, buffers and scales</h2>"
    yield f'<p class="big">{byte_count(before)} &rarr; {byte_count(after)}</p>'
    left = after / max(before, 1)
    yield _bar(min(left, 1.0), f"{left:.1%} of the float size")
    yield f"<p>{size_ratio(before, after)}</p></div></section>"


def _facts(report: QuantizationReport) -> Iterator[str]:
    yield '<section class="facts">'
    yield from (f"<p>{escape(line)}</p>" for line in facts(report))
    yield "</section>"


def _bar(fraction: float, text: str) -> str:
    return (
        f'<div class="bar" role="img" aria-label="{escape(text)}">'
        f'<span style="width:{100 * fraction:.2f}%"></span></div>'
    )


def _warnings(report: QuantizationReport) -> Iterator[str]:
    if report.warnings:
        yield '<section class="warnings"><h2>Warnings</h2><ul>'
        yield from (f"<li>{escape(warning)}</li>" for warning in report.warnings)
        yield "</ul></section>"


def _reasons(report: QuantizationReport) -> Iterator[str]:
    if not report.reasons:
        return
    yield '<section><h2>Why not in integers</h2><ul class="reasons">'
    for (reason, message, remedy), sites in report.reasons.items():
        advice = f'<br><span class="remedy">{escape(remedy)}</span>' if remedy else ""
        count = f"{len(sites)} site" + ("s" if len(sites) > 1 else "")
        yield f"<li><code>{escape(reason)}</code> ({count}): {escape(message)}{advice}</li>"
    yield "</ul></section>"


def _table(report: QuantizationReport) -> Iterator[str]:
    yield '<section><h2 id="sites">Sites</h2><form role="search" hidden>'
    yield '<label>Search <input id="search" type="search" autocomplete="off"></label>'
    yield '<fieldset><legend class="off">Decisions to show</legend>'
    for state in _STATES:
        if report.counts.get(state):
            yield (
                f'<label><input type="checkbox" name="state" value="{state}" checked>'
                f'<span class="state {state}">{state}</span></label>'
            )
    yield '</fieldset><output id="shown" aria-live="polite"></output></form>'
    yield '<div class="scroll" role="region" aria-labelledby="sites" tabindex="0"><table>'
    yield '<caption class="off">One row for each float operation of the model, in graph order'
    yield "</caption><thead><tr>"
    names = finding_names(report)
    columns = (*_COLUMNS[:-1], *names, _COLUMNS[-1])
    yield from (f'<th scope="col">{escape(column)}</th>' for column in columns)
    yield "</tr></thead><tbody>"
    first = heads(report.sites)
    total = sum(site.macs for site in report.sites)
    for index, site in enumerate(report.sites):
        yield from _row(index, site, first.get(site.step, site), total, names)
    yield "</tbody></table></div></section>"


def _row(index: int, site: Site, head: Site, total: int, names: tuple[str, ...]) -> Iterator[str]:
    state = "removed" if site.removed else site.decision
    yield f'<tr data-state="{state}"><td class="number" data-key="{index}">{index + 1}</td>'
    yield f'<th scope="row" title="node {escape(site.node)}">{escape(site.label)}</th>'
    yield f"<td>{escape(site.op)}</td>"
    yield f'<td><span class="state {state}">{state}</span></td>'
    fused = "" if head is site else f"<br>fused into {escape(head.label)}"
    message = f"<br>{escape(site.message)}" if site.message else ""
    yield f"<td><code>{escape(site.runs_as or site.reason)}</code>{fused}{message}</td>"
    yield f"<td>{escape(site.remedy)}</td>"
    share = f' title="{site.macs / total:.1%} of the model"' if site.macs else ""
    macs = "?" if site.unknown_macs else amount(site.macs) if site.macs else ""
    yield f'<td class="number" data-key="{site.macs}"{share}>{macs}</td>'
    yield from (_finding(site.findings.get(name)) for name in names)
    source = escape(site.source).replace("/", "/<wbr>")
    yield f"<td><code>{source}</code></td></tr>"


def _finding(found: Finding | None) -> str:
    if found is None:
        return "<td></td>"
    is_number = isinstance(found, (int, float)) and not isinstance(found, bool)
    key = f' class="number" data-key="{found}"' if is_number else ""
    return f"<td{key}>{escape(finding_text(found))}</td>"
