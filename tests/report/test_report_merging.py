"""Reports of regions, merged."""

from __future__ import annotations

import pytest

from qfx.history.history import History
from qfx.report.checked import Checked
from qfx.report.merging import merged_report
from qfx.report.sites import QuantizationReport, Site


def site(node: str, path: str, macs: int, *, quantized: bool = True) -> Site:
    decision = ("quantized", "kernel", "") if quantized else ("float", "", "no-kernel")
    return Site(node, path, "", "Linear", *decision, "", "", macs, node if quantized else "")


def report(sites: list[Site], checked: Checked | None = None) -> QuantizationReport:
    total = sum(each.macs for each in sites)
    done = sum(each.macs for each in sites if each.decision == "quantized")
    share = done / total if total else None
    return QuantizationReport(tuple(sites), share, (0, 0), "x86", ("idle rule",), checked)


def test_coverage_is_that_of_the_whole() -> None:
    parts = {
        "a": report([site("one", "a.one", 100), site("two", "a.two", 50, quantized=False)]),
        "b": report([site("relu", "b", 0)]),
    }
    left = site("c", "c", 50, quantized=False)
    merged = merged_report(parts, [left], size_bytes=(10, 5), history=History())
    assert merged.coverage == pytest.approx(100 / 200)
    assert [each.node for each in merged.sites] == ["a:one", "a:two", "b:relu", "c"]
    assert [each.label for each in merged.sites] == ["a.one", "a.two", "b:relu", "c"]
    assert [each.region for each in merged.sites[:3]] == ["a", "a", "b"]
    assert merged.warnings == ("idle rule",)
    assert merged.size_bytes == (10, 5)


def test_of_what_was_checked_the_least_counts() -> None:
    first, second = (
        Checked(130.0, 3, 0, 90.0, 30.0),
        Checked(float("nan"), 2, 1, 80.0, 40.0, ("x",)),
    )
    parts = {"a": report([site("one", "a.one", 1)], first),
             "b": report([site("two", "b.two", 1)], second)}  # fmt: skip
    merged = merged_report(parts, (), size_bytes=(1, 1), history=History())
    assert merged.checked == Checked(130.0, 5, 1, 80.0, 30.0, ("b: x",))
