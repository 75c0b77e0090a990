"""Why an operation is what it became: what the report, its sites and the history know of it.

    >>> print(qmodel.report.explain("blocks.0.act"))

The report tells what was decided, and the history how it came to that: each rule that rewrote the
operation, and each that was tried on it and did not apply, with its reason.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from qfx import vocab
from qfx.errors import ConfigError
from qfx.history import listing
from qfx.history.blame import Blame, BlameStep, trace
from qfx.history.events import NearMiss
from qfx.history.stage import Stage
from qfx.table import amount

if TYPE_CHECKING:
    from qfx.report.sites import QuantizationReport, Site

SHOWN = 20
"""How many sites are told of in full when an explanation is printed."""

_NEAR = 6
_MARGIN = " " * 14
_REFERENCE = "reference"
"""The pass that writes the reference form."""


@dataclass(frozen=True)
class SiteExplanation:
    """What is known of one site; prints as a paragraph.

    Attributes:
        site: what was decided.
        steps: what each pass made of it, in order, as ``history.blame`` tells it.
        tried: what rules were tried on it and did not apply: the stage, and why.
        means: the operation in the reference form, between what quantizes and dequantizes it, as
            lines of the IR; where that has it no more, in the last stage that has.
        fused_with: the other sites that the same step runs, by label.
        missing: why nothing is known of how it came about, or "".
    """

    site: Site
    steps: tuple[BlameStep, ...] = ()
    tried: tuple[tuple[int, NearMiss], ...] = ()
    means: tuple[str, ...] = ()
    fused_with: tuple[str, ...] = ()
    missing: str = ""

    def __str__(self) -> str:
        return "\n".join(_paragraph(self))


@dataclass(frozen=True)
class Explanation:
    """Why operations are what they became; prints as a paragraph for each.

    Attributes:
        where: what was asked for.
        told: one per site, in the order of the graph.
        blame: the history of the node that was asked for, where it belongs to no site.
    """

    where: str
    told: tuple[SiteExplanation, ...] = ()
    blame: Blame | None = None

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that it is about."""
        return tuple(each.site for each in self.told)

    def __str__(self) -> str:
        if self.blame is not None:
            return f"%{self.where} stands for no operation: a pass put it there\n{self.blame}"
        paragraphs = list(map(str, _shortened(self.told[:SHOWN])))
        if len(self.told) > 1:
            paragraphs.insert(0, f"{len(self.told)} operations are at {self.where!r}")
        if len(self.told) > SHOWN:
            more = ", ".join(each.site.label for each in self.told[SHOWN : SHOWN + 3])
            left = len(self.told) - SHOWN
            paragraphs.append(f"... and {left} more ({more}{', ...' if left > 3 else ''})")
        return "\n\n".join(paragraphs)


def explain(report: QuantizationReport, where: str) -> Explanation:
    """Explain what ``where`` names; see :meth:`qfx.QuantizationReport.explain`.

    Raises:
        ConfigError: nothing is called so.
    """
    if not isinstance(where, str):
        raise ConfigError(
            f"explain takes a name, not {type(where).__name__}: a site as the report prints it, a "
            "node of any stage, the path of a module, or a pattern such as 'layer1.*'"
        )
    history = report.history
    stages = list(history) if history is not None else []
    sites = _named(report.sites, where)
    if not sites and any(where in stage.snapshot for stage in stages):
        blame = trace(stages, where)
        names = {origin.node for origin in blame.origins}
        sites = [site for site in report.sites if site.node in names]
        if not sites:
            return Explanation(where, blame=blame)
    if not sites:
        raise ConfigError(_unknown(report, where, stages))
    missing = "" if stages else str(getattr(history, "missing", "the report holds no history"))
    return Explanation(where, tuple(_told(report, site, stages, missing) for site in sites))


# -- which sites ---------------------------------------------------------------------------------
def _named(sites: Sequence[Site], where: str) -> list[Site]:
    """The sites that ``where`` names: by label or node, else those of a module or pattern."""
    if not where:
        return list(sites)
    exact = [site for site in sites if where in (site.label, site.node)]
    if exact and not any(site.module_path.startswith(f"{where}.") for site in sites):
        return exact
    inside = [s for s in sites if s.module_path == where or s.module_path.startswith(f"{where}.")]
    if inside:
        return inside
    return [site for site in sites if any(fnmatchcase(name, where) for name in _names(site))]


def _names(site: Site) -> tuple[str, str, str]:
    return site.label, site.module_path, site.node


def _unknown(report: QuantizationReport, where: str, stages: Sequence[Stage]) -> str:
    """What to say of a name that nothing has, with those that are like it."""
    known = dict.fromkeys(name for site in report.sites for name in _names(site) if name)
    known |= dict.fromkeys(parent for name in list(known) for parent in _parents(name))
    wanted = re.sub(r"[*?\[\]]", "", where)
    near = difflib.get_close_matches(wanted, known, n=_NEAR, cutoff=0.5)
    near = near or [name for name in known if wanted and wanted in name][:_NEAR]
    hint = f"; near it: {', '.join(map(repr, near))}" if near else ""
    tail = ", or a node of any stage" if stages else ""
    return (
        f"nothing in the report is called {where!r}{hint}. What to do: give a site as the report "
        f"prints it, the path of a module, a pattern such as 'layer1.*'{tail}"
    )


def _parents(path: str) -> Iterator[str]:
    parts = path.split(":")[0].split(".")
    yield from (".".join(parts[:end]) for end in range(1, len(parts)))


# -- what is known of one ------------------------------------------------------------------------
def _told(
    report: QuantizationReport, site: Site, stages: Sequence[Stage], missing: str
) -> SiteExplanation:
    others = (s.label for s in report.sites if site.step and s.step == site.step and s is not site)
    if not stages or site.node not in stages[0].snapshot:
        return SiteExplanation(site, fused_with=tuple(others), missing=missing)
    blame = trace(stages, site.node)
    steps = (*blame.steps, *blame.later)
    names = {site.node, *(name for step in steps for name in (*step.before, *step.after))}
    means = _meaning(stages, names) or (blame.text,)
    return SiteExplanation(site, steps, tuple(_tried(stages, names)), means, tuple(others))


def _meaning(stages: Sequence[Stage], names: set[str]) -> tuple[str, ...]:
    """What stands of ``names`` in the reference form, with what they read and hand out."""
    view = next((stage.snapshot for stage in reversed(stages) if stage.name == _REFERENCE), None)
    if view is None:
        return ()
    own = {r.name for r in view if r.name in names and r.op.startswith("call_")}
    read = {name for r in view if r.name in own for name in r.inputs}
    shown = [
        r
        for r in view
        if r.name in own
        or (r.name in read and r.target == vocab.DEQUANTIZE.name)
        or (own.intersection(r.inputs) and r.target == vocab.QUANTIZE.name)
    ]
    lines = listing.lines(shown, among=view.records) if own else []
    return tuple(lines)


def _tried(stages: Sequence[Stage], names: set[str]) -> Iterator[tuple[int, NearMiss]]:
    """The rules that did not apply under any of ``names``, each reason once."""
    told = set[tuple[str, str]]()
    for stage in stages:
        for miss in stage.near_misses:
            if miss.node in names and (miss.rule, miss.reason) not in told:
                told.add((miss.rule, miss.reason))
                yield stage.index, miss


# -- text ----------------------------------------------------------------------------------------
def _shortened(told: Sequence[SiteExplanation]) -> Iterator[SiteExplanation]:
    """The same, where several mean the same lines with these told once."""
    first: dict[tuple[str, ...], str] = {}
    for each in told:
        label = first.setdefault(each.means, each.site.label)
        again = bool(each.means) and label != each.site.label
        yield replace(each, means=(f"as {label}",)) if again else each


def _paragraph(told: SiteExplanation) -> Iterator[str]:
    site = told.site
    place = f"   # {site.source}" if site.source else ""
    yield f"{site.label}: {site.op}{place}"
    yield from _entry("decided", _decided(told))
    yield from _entry("because", [site.message] if site.message else [])
    yield from _entry("what to do", [site.remedy] if site.remedy else [])
    rows = [(f"{step.index} {step.rule}", str(step)) for step in told.steps]
    yield from _entry("how", _aligned(rows) or ([told.missing] if told.missing else []))
    rows = [(f"{index} {miss.rule}", miss.reason) for index, miss in told.tried]
    yield from _entry("also tried", _aligned(rows))
    yield from _entry("means", told.means)


def _decided(told: SiteExplanation) -> list[str]:
    site = told.site
    macs = f"; {amount(site.macs)} MACs" if site.macs else ""
    if site.decision != "quantized":
        return [f"{site.reason if site.removed else f'float ({site.reason})'}{macs}"]
    lines = [f"quantized{f', {site.method}' if site.method else ''}: runs as {site.kernel}{macs}"]
    if site.reason:
        lines.append(f"but: {site.reason}")
    if site.rule:
        lines.append(f"by {site.rule}")
    if told.fused_with:
        lines.append(f"in one step with {', '.join(told.fused_with)}")
    return lines


def _entry(title: str, lines: Sequence[str]) -> Iterator[str]:
    for index, line in enumerate(lines):
        yield f"  {title:<12}{line}" if not index else f"{_MARGIN}{line}"


def _aligned(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(left) for left, _ in rows), default=0)
    return [f"{left:<{width}}  {right}" for left, right in rows]
