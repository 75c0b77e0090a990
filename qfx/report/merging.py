"""The reports of the regions of one model as one: sites are addressed ``region:node``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from qfx.history.history import History
from qfx.report.checked import Checked
from qfx.report.sites import QuantizationReport, Site


def merged_report(
    reports: Mapping[str, QuantizationReport],
    left: Sequence[Site],
    *,
    size_bytes: tuple[int, int],
    history: History,
    work: Mapping[str, int] | None = None,
    warnings: Iterable[str] = (),
) -> QuantizationReport:
    """One report of several, by region.

    Args:
        reports: of the regions, whose sites count what one call computes.
        left: the sites outside of them.
        size_bytes: of the whole model, before and after.
        history: that of the whole model.
        work: what all calls of each region compute, for the coverage; None takes one call of each.
        warnings: those that belong to none of them.
    """
    first = next(iter(reports.values()))
    parts = [addressed(region, site) for region, found in reports.items() for site in found.sites]
    done = {name: _macs(r.sites) for name, r in reports.items()} if work is None else work
    integer = sum(round((r.coverage or 0.0) * done[name]) for name, r in reports.items())
    total = sum(done.values()) + _macs(left)
    return QuantizationReport(
        sites=(*parts, *left),
        coverage=integer / total if total else None,
        size_bytes=size_bytes,
        backend=first.backend,
        warnings=tuple(
            dict.fromkeys((*warnings, *(w for r in reports.values() for w in r.warnings)))
        ),
        checked=_checked({region: r.checked for region, r in reports.items()}),
        history=history,
        saturates=any(report.saturates for report in reports.values()),
    )


def _macs(sites: Iterable[Site]) -> int:
    return sum(site.macs for site in sites)


def addressed(region: str, site: Site) -> Site:
    """``site`` of a region, named among those of all."""
    step = f"{region}:{site.step}" if site.step else ""
    return replace(site, node=f"{region}:{site.node}", step=step, region=region)


def _checked(parts: Mapping[str, Checked | None]) -> Checked | None:
    """What the checks of all regions showed; of ratios the least."""
    found = {region: each for region, each in parts.items() if each is not None}
    if not found:
        return None
    every = found.values()
    known = [each.float_graph for each in every if each.float_graph == each.float_graph]
    return Checked(
        float_graph=min(known, default=float("nan")),
        calls=sum(each.calls for each in every),
        put_back=sum(each.put_back for each in every),
        lowered=min(each.lowered for each in every),
        output=min(each.output for each in every),
        notes=tuple(f"{region}: {note}" for region, each in found.items() for note in each.notes),
    )
