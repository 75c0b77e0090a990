"""The report of a quantized model as JSON; operations and decisions are those of the graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from qfx.quant.annotation import Decision
from qfx.report.checked import Checked
from qfx.report.sites import QuantizationReport, Site
from qfx.storage import limits
from qfx.storage.facts import FactReader, FactWriter
from qfx.storage.fields import Columns, Fields, Json, number
from qfx.storage.findings import read_findings, write_findings

_METHODS = ("", "static", "dynamic", "weight_only")


# -- writing -------------------------------------------------------------------------------------
def write_report(report: QuantizationReport, facts: FactWriter) -> dict[str, Json]:
    """A report as JSON."""
    written: dict[str, Json] = {
        **write_sites(report.sites, facts),
        "size_bytes": list(report.size_bytes),
        "backend": report.backend,
        "warnings": list(report.warnings),
        "saturates": report.saturates,
    }
    if report.made_of:
        written["made_of"] = report.made_of
    if report.coverage is not None:
        written["coverage"] = report.coverage
    if report.checked is not None:
        said = {**asdict(report.checked), "notes": list(report.checked.notes)}
        written["checked"] = {k: number(v) if type(v) is float else v for k, v in said.items()}
    return written


def write_sites(sites: Iterable[Site], facts: FactWriter) -> dict[str, Json]:
    """Sites as JSON, and the names of their kernels."""
    kernels: dict[str, int] = {}
    written: list[Json] = [_write_site(site, facts, kernels) for site in sites]
    return {"sites": written, "kernels": list(kernels)}


def _write_site(site: Site, facts: FactWriter, kernels: dict[str, int]) -> Json:
    decision = Decision(site.decision == "quantized", site.reason, site.message, site.remedy)
    written: dict[str, Json] = {
        "site": [site.node, site.module_path, site.source, site.op],
        "decision": facts.decision(decision),
    }
    if site.kernel:
        written["kernel"] = kernels.setdefault(site.kernel, len(kernels))
    if site.macs:
        written["macs"] = site.macs
    if site.step:
        written["step"] = site.step
    if site.region != "main":
        written["region"] = site.region
    if site.unknown_macs:
        written["unknown_macs"] = True
    if site.findings:
        written["findings"] = write_findings(tuple(site.findings.items()))
    if site.rule:
        written["rule"] = facts.rule(site.rule)
    return written | ({"method": site.method} if site.method else {})


# -- reading -------------------------------------------------------------------------------------
def read_report(fields: Fields, facts: FactReader) -> QuantizationReport:
    """The report that JSON describes."""
    sites = read_sites(fields, facts)
    sizes = fields.integers("size_bytes", 0, 1 << 60)
    if len(sizes) != 2:
        fields.refuse("size_bytes", "are not two sizes")
    coverage = fields.number("coverage") if fields.has("coverage") else None
    checked = _read_checked(fields.record("checked")) if fields.has("checked") else None
    fields.any("coverage"), fields.any("checked")
    report = QuantizationReport(
        sites,
        coverage,
        (sizes[0], sizes[1]),
        fields.text("backend"),
        fields.texts("warnings"),
        checked,
        fields.flag("saturates"),
        made_of=fields.text("made_of", ""),
    )
    fields.close()
    return report


def read_sites(fields: Fields, facts: FactReader) -> tuple[Site, ...]:
    """What :func:`write_sites` wrote; the other keys somebody else reads."""
    kernels = fields.texts("kernels")
    return tuple(_read_site(each, facts, kernels) for each in fields.records("sites"))


_SITE = Columns(
    site=list,
    decision=int,
    kernel=int | None,
    macs=0,
    step="",
    region="main",
    unknown_macs=False,
    method="",
    rule=int | None,
    findings=[],
)


def _read_site(fields: Fields, facts: FactReader, kernels: Sequence[str]) -> Site:
    said, number, kernel, macs, step, region, unknown, method, rule, findings = fields.columns(
        _SITE
    )
    place = fields.place
    if [type(each) for each in said] != [str] * 4:
        fields.refuse("site", "is no node, module, line and operation")
    if kernel is not None and not 0 <= kernel < len(kernels):
        fields.refuse("kernel", f"{kernel} is the number of none")
    if not 0 <= macs <= limits.INTEGERS[1]:
        fields.refuse("macs", "are beyond 64 bits")
    decision = facts.decision(number, place)
    node, module_path, source, op = said
    return Site(
        node,
        module_path,
        source,
        op,
        "quantized" if decision.quantized else "float",
        "" if kernel is None else kernels[kernel],
        decision.reason,
        decision.message,
        decision.remedy,
        macs,
        step,
        region,
        unknown,
        fields.chosen("method", method, _METHODS),
        "" if rule is None else facts.rule(rule, place),
        dict(read_findings([findings], place)),
    )


def _read_checked(fields: Fields) -> Checked:
    made = Checked(
        fields.number("float_graph"),
        fields.integer("calls"),
        fields.integer("put_back"),
        fields.number("lowered"),
        fields.number("output"),
        fields.texts("notes"),
    )
    fields.close()
    return made
