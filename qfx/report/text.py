"""The report as a table for a terminal.

A row a site. What was fused into the operation of the row above it begins with ``+``; what was
fused into an operation further up names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from qfx.backends.saturation import HIGHEST_SAFE
from qfx.graph.findings import finding_text
from qfx.table import amount, byte_count, table

if TYPE_CHECKING:
    from qfx.report.sites import QuantizationReport, Site

_HEADER = ("site", "operation", "runs as", "MACs", "source")


def report_text(report: QuantizationReport) -> str:
    """The whole report: a summary, the table, and the reasons with their remedies."""
    sites = ("", _table(report)) if report.sites else ()
    return "\n".join((*summary(report), *sites, *_notes(report)))


def summary(report: QuantizationReport) -> Iterator[str]:
    """How much was quantized, what it does to the size, and what was checked."""
    yield f"Quantized for {report.backend}: {covered(report)} quantized{_left_out(report)}"
    counts = report.counts
    listed = ", ".join(f"{count} {status}" for status, count in counts.items())
    yield f"Operations: {listed or 'none that computes floats'}"
    before, after = report.size_bytes
    yield f"Size: {byte_count(before)} -> {byte_count(after)} ({size_ratio(before, after)})"
    yield from facts(report)


def facts(report: QuantizationReport) -> Iterator[str]:
    """In how many bits activations are where that is not 8, and what was checked."""
    rounded = any(s.method in ("static", "dynamic") and not s.reason for s in report.sites)
    if report.saturates and rounded:
        yield (
            f"Activations: 7 bits at most (codes up to {HIGHEST_SAFE}); sums of 8-bit products "
            "saturate in kernels of the CPU that it was quantized on"
        )
    if report.checked is None:
        yield "Not checked on any inputs: check=False"
    else:
        yield from report.checked.lines()


def covered(report: QuantizationReport) -> str:
    """The share of the MACs in integers; of those that are known, where some are not."""
    if report.coverage is None:
        return "no MACs"
    if not report.unknown:
        return f"{report.coverage:.1%} of MACs"
    known = sum(site.macs for site in report.sites)
    return f"{amount(round(report.coverage * known))} of {amount(known)} known MACs"


def size_ratio(before: int, after: int) -> str:
    """How much smaller or larger a model became, in words."""
    if after == before:
        return "the same" if before else "nothing to hold"
    if after > before:  # a weight that float layers share with quantized ones is kept twice
        return f"{after / max(before, 1):.1f} times larger"
    return f"{before / max(after, 1):.1f} times smaller"


def _left_out(report: QuantizationReport) -> str:
    """What the coverage does not count, in words."""
    labels = [site.label for site in report.unknown]
    if not labels:
        return ""
    more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
    return f", not counting {', '.join(labels[:3])}{more}: how much work that is can't be known"


def heads(sites: Iterable[Site]) -> dict[str, Site]:
    """For every step of the lowered graph, the first site that it runs."""
    found: dict[str, Site] = {}
    for site in sites:
        if site.step:
            found.setdefault(site.step, site)
    return found


def _table(report: QuantizationReport) -> str:
    first, above = heads(report.sites), ""
    names, rows = finding_names(report), []
    for site in report.sites:
        head = first.get(site.step, site)
        fused = head is not site
        runs_as = site.runs_as or (site.reason if site.removed else f"float: {site.reason}")
        if fused and above != site.step:
            runs_as = f"{runs_as} of {head.label}"
        plus = "+ " if fused and above == site.step else ""
        macs = "?" if site.unknown_macs else amount(site.macs) if site.macs else ""
        found = [finding_text(site.findings[n]) if n in site.findings else "" for n in names]
        rows.append((site.label, f"{plus}{site.op}", runs_as, macs, *found, site.source))
        above = above if site.removed else site.step  # what was dropped interrupts no chain
    return table((*_HEADER[:-1], *names, _HEADER[-1]), rows, right=("MACs", *names))


def finding_names(report: QuantizationReport) -> tuple[str, ...]:
    """The names under which passes recorded something of sites; each is a column."""
    return tuple(dict.fromkeys(name for site in report.sites for name in site.findings))


def _notes(report: QuantizationReport) -> Iterator[str]:
    if report.reasons:
        yield ""
        yield "Why not in integers:"
    for (reason, message, remedy), sites in report.reasons.items():
        yield f"  {reason} ({len(sites)}): {message}"
        if remedy:
            yield f"    -> {remedy}"
    if report.warnings:
        yield ""
    for warning in report.warnings:
        yield f"warning: {warning}"
