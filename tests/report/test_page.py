"""The report's page: complete, self-contained, and safe with names of any spelling."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

import qfx

VOID = {"meta", "input", "br", "wbr"}
HOSTILE = "</td><script>alert(\"1\")</script><img src=x onerror='alert(2)'>&amp;"


class Page(HTMLParser):
    """The elements of a page, its table as text, and whether tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "br" and self.rows and self.rows[-1]:
            self.rows[-1][-1] += "\n"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def report() -> qfx.QuantizationReport:
    torch.manual_seed(0)
    layers = (nn.Linear(8, 8), nn.ReLU(), nn.GELU(), nn.Dropout(), nn.Linear(8, 4))
    return qfx.quantize(nn.Sequential(*layers).eval(), torch.randn(4, 8), backend="fbgemm").report


def page_of(report: qfx.QuantizationReport, folder: Path) -> Page:
    return Page(report.to_html(folder / "report.html").read_text(encoding="utf-8"))


def test_a_row_a_site_with_everything_that_the_report_knows(
    report: qfx.QuantizationReport, tmp_path: Path
) -> None:
    header, *rows = page_of(report, tmp_path).rows
    assert header[1:] == [
        *("Site", "Operation", "Decision", "Kernel or reason", "What to do", "MACs", "Source")
    ]
    assert len(rows) == len(report.sites) == 5
    for number, (row, site) in enumerate(zip(rows, report.sites, strict=True), start=1):
        state = "removed" if site.removed else site.decision
        assert row[:4] == [str(number), site.label, site.op, state]
        assert row[4].startswith(site.kernel or site.reason)
        assert site.message in row[4]
        assert row[5] == site.remedy
        assert row[7] == site.source
    assert rows[1][4].endswith(f"fused into {report.sites[0].label}")
    assert [row[6] for row in rows] == ["256", "", "", "", "128"]


def test_summary(report: qfx.QuantizationReport, tmp_path: Path) -> None:
    page = page_of(report, tmp_path)
    bars = [a["aria-label"] for a in page.named("div") if a.get("role") == "img"]
    after, before = report.size_bytes[1], report.size_bytes[0]
    assert bars == ["100.0% of MACs", f"{after / before:.1%} of the float size"]
    assert {"style": "width:100.00%"} in page.named("span")


def test_without_macs_there_is_no_bar_of_coverage(
    report: qfx.QuantizationReport, tmp_path: Path
) -> None:
    page = page_of(replace(report, coverage=None), tmp_path)
    assert len([a for a in page.named("div") if a.get("role") == "img"]) == 1
    assert "none to count" in (tmp_path / "report.html").read_text()


def test_loads_nothing(report: qfx.QuantizationReport, tmp_path: Path) -> None:
    page = page_of(report, tmp_path)
    policy = [a["content"] for a in page.named("meta") if "http-equiv" in a]
    assert [(p or "").split(";")[0] for p in policy] == ["default-src 'none'"]
    assert not [a for _, a in page.tags if {"src", "href", "action"} & a.keys()]
    text = (tmp_path / "report.html").read_text()
    assert not [word for word in ("http://", "https://", "url(", "@import") if word in text]


def test_readable_by_machines_and_in_the_dark(
    report: qfx.QuantizationReport, tmp_path: Path
) -> None:
    page = page_of(report, tmp_path)
    assert page.named("html") == [{"lang": "en"}]
    assert page.named("caption")
    scopes = [a.get("scope") for a in page.named("th")]
    assert scopes == ["col"] * 8 + ["row"] * len(report.sites)
    boxes = [a["value"] for a in page.named("input") if a["type"] == "checkbox"]
    assert boxes == ["quantized", "float", "removed"]
    assert "prefers-color-scheme: dark" in (tmp_path / "report.html").read_text()


def test_hostile_names_are_text(report: qfx.QuantizationReport, tmp_path: Path) -> None:
    names = {
        key: HOSTILE
        for key in ("node", "module_path", "source", "op", "kernel", "reason", "message", "remedy")
    }
    site = replace(report.sites[2], **names)
    hostile = replace(report, sites=(site,), backend=HOSTILE, warnings=(HOSTILE,))
    page = page_of(hostile, tmp_path)
    assert len(page.named("script")) == 1
    assert page.named("img") == []
    (row,) = page.rows[1:]
    assert row[1] == site.label
    assert (row[2], row[5], row[7]) == (HOSTILE, HOSTILE, HOSTILE)
    assert not [a for _, a in page.tags if any(key.startswith("on") for key in a)]


def test_the_page_says_what_was_checked_as_the_text_does(
    report: qfx.QuantizationReport, tmp_path: Path
) -> None:
    assert report.checked is not None
    text = report.to_html(tmp_path / "report.html").read_text(encoding="utf-8")
    for line in report.checked.lines():
        assert f"<p>{line}</p>" in text
    unchecked = replace(report, checked=None).to_html(tmp_path / "unchecked.html")
    assert "<p>Not checked on any inputs: check=False</p>" in unchecked.read_text(encoding="utf-8")
