"""The printed report: a row a site, reasons with remedies, sources, coverage and size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import qfx
from qfx import vocab
from qfx.history.labels import label
from qfx.quant.reasons import elsewhere
from qfx.report.text import size_ratio
from qfx.table import amount, byte_count, table


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn(self.conv(x)))
        return self.relu(F.gelu(y) + x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.Sequential(Block())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.head(self.drop(x.mean((2, 3))))


@pytest.fixture(scope="module")
def report() -> qfx.QuantizationReport:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mapping = qfx.get_default_qconfig_mapping("fbgemm", "static").set_module_name("head", None)
    return qfx.quantize(Net().eval(), x, backend="fbgemm", qconfig=mapping).report


@pytest.fixture(scope="module")
def lines(report: qfx.QuantizationReport) -> dict[str, list[str]]:
    """The cells of the printed table by site."""
    rows = [re.split(r" {2,}", line) for line in str(report).splitlines()]
    return {cells[0]: cells[1:] for cells in rows}


def test_every_site_has_a_row_with_its_operation_and_source(
    report: qfx.QuantizationReport, lines: dict[str, list[str]]
) -> None:
    assert len({site.label for site in report.sites}) == len(report.sites)
    for site in report.sites:
        cells = lines[site.label]
        assert cells[0].removeprefix("+ ") == site.op
        assert cells[-1] == site.source
        assert re.fullmatch(r"test_sites\.py:\d+", site.source)


def test_fused_operations_follow_the_one_that_they_are_part_of(
    report: qfx.QuantizationReport, lines: dict[str, list[str]]
) -> None:
    by_label = {site.label: site for site in report.sites}
    chain = [by_label[f"blocks.0.{name}"] for name in ("conv", "bn", "relu")]
    assert len({site.step for site in chain}) == 1
    assert chain[0].step
    assert [lines[site.label][0] for site in chain] == ["Conv2d", "+ BatchNorm2d", "+ ReLU"]
    assert {lines[site.label][1] for site in chain} == {"quantized.conv2d"}
    assert lines["stem"][:3] == ["Conv2d", "quantized.conv2d", amount(by_label["stem"].macs)]
    assert by_label["stem"].step != chain[0].step


def test_float_rows_and_notes_say_why_and_what_to_do(
    report: qfx.QuantizationReport, lines: dict[str, list[str]]
) -> None:
    assert lines["head"][1] == "float: qconfig-none"
    head = next(site for site in report.sites if site.label == "head")
    assert "set_module_name('head')" in head.message
    text = str(report)
    assert f"  qconfig-none (1): {head.message}\n    -> {head.remedy}\n" in text
    assert text.index("  qconfig-none (1)") < text.index("  no-kernel (1)"), "MACs come first"


def test_a_removed_dropout_is_not_called_float(
    report: qfx.QuantizationReport, lines: dict[str, list[str]]
) -> None:
    drop = next(site for site in report.sites if site.label == "drop")
    assert (drop.decision, drop.reason, drop.step, drop.removed) == ("float", "removed", "", True)
    assert lines["drop"][:2] == ["Dropout", "removed"]
    assert report.counts == {"quantized": 7, "float": 2, "removed": 1}
    assert "\nOperations: 7 quantized, 2 float, 1 removed\n" in str(report)
    assert list(report.reasons)[-1][0] == "removed"


def test_summary_has_coverage_and_size(report: qfx.QuantizationReport) -> None:
    sites = {site.label: site for site in report.sites}
    convs = sites["stem"].macs + sites["blocks.0.conv"].macs
    assert report.coverage == pytest.approx(convs / (convs + sites["head"].macs))
    first, _, third, *_ = str(report).splitlines()
    assert first == f"Quantized for fbgemm: {report.coverage:.1%} of MACs quantized"
    before, after = map(byte_count, report.size_bytes)
    assert third.startswith(f"Size: {before} -> {after} (")


def test_columns_are_aligned(report: qfx.QuantizationReport) -> None:
    lines = str(report).splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("site "))
    column = lines[header].index("source")
    rows = lines[header + 2 : header + 2 + len(report.sites)]
    assert [row[column:] for row in rows] == [site.source for site in report.sites]
    assert {row[column - 2 : column] for row in rows} == {"  "}


@pytest.mark.parametrize(
    ("node", "path", "expected"),
    [
        ("add", "", "add"),
        ("layer1_0_conv1", "layer1.0.conv1", "layer1.0.conv1"),
        ("_0", "0", "0"),
        ("layer1_0_relu_1", "layer1.0.relu", "layer1.0.relu:relu_1"),
        ("add_1", "layer1.0", "layer1.0:add_1"),
        ("relu_six", "relu", "relu:relu_six"),
    ],
)
def test_labels(node: str, path: str, expected: str) -> None:
    assert label(node, path) == expected


@pytest.mark.parametrize(
    ("count", "text"),
    [(64, "64"), (999, "999"), (9216, "9.2k"), (115_605_504, "116M"), (4_090_000_000, "4.1G")],
)
def test_amounts(count: int, text: str) -> None:
    assert amount(count) == text


def test_numbers_go_to_the_right() -> None:
    lines = table(("name", "n"), [("a", "5"), ("bcdef", "100")], right=("n",)).splitlines()
    assert lines == ["name     n", "-----  ---", "a        5", "bcdef  100"]


def drop_relu() -> qfx.Pass:
    @qfx.rewrite(qfx.Op(vocab.RELU, qfx.Any("x")))
    def drop(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
        return match["x"]

    class DropRelu(qfx.PatternPass):
        name = "drop-relu"
        patterns = (drop,)

    return DropRelu()


def remade(step: qfx.Pass, after: str) -> dict[str, qfx.Site]:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
    pipeline = qfx.pipelines.static(backend="reference").insert_after(after, step)
    qmodel = qfx.quantize(model.eval(), torch.randn(3, 4), pipeline=pipeline, check=False)
    return {site.label: site for site in qmodel.report.sites}


def test_a_removed_site_says_who_removed_it() -> None:
    sites = remade(drop_relu(), "canonicalize")
    assert sites["1"].message.startswith("it is dropped by canonicalize: it does nothing in eval")
    assert sites["2"].reason == "removed"
    assert sites["2"].message == "drop-relu/drop removed it"
    assert "history.diff('drop-relu')" in sites["2"].remedy


def test_what_was_made_anew_after_annotate_is_not_called_removed() -> None:
    @qfx.rewrite(qfx.Op(vocab.RELU, qfx.Any("x")))
    def tanh(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
        return rw.call(vocab.TANH, match["x"])

    class Anew(qfx.PatternPass):
        name = "anew"
        patterns = (tanh,)

    model = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.ReLU()).eval()
    pipeline = qfx.pipelines.static(backend="x86").insert_after("annotate", Anew())
    report = qfx.quantize(model, torch.randn(3, 4), pipeline=pipeline, check=False).report
    assert report.sites[-1].reason == "undecided"
    assert "before annotate" in report.sites[-1].remedy


def test_a_pipeline_without_annotate_says_so() -> None:
    pipeline = qfx.pipelines.static(backend="reference").without("annotate")
    with pytest.raises(qfx.ConfigError, match=r"put the pass annotate.* before it"):
        qfx.quantize(Net().eval(), torch.randn(2, 3, 8, 8), pipeline=pipeline)


def test_a_missing_kernel_names_the_backends_that_have_one() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Softplus()).eval()
    sites = qfx.quantize(model, torch.randn(3, 4), backend="x86").report.sites
    assert "fbgemm" in sites[1].remedy
    assert sites[2].reason in ("no-kernel", "unknown-op", "opaque-module")
    weights = qfx.quantize(model, torch.randn(3, 4), backend="x86", method="weight_only")
    norm = weights.report.sites[1]
    assert norm.reason == "not-weight-only"
    assert norm.remedy == elsewhere(())
    assert elsewhere(()) == "nothing to do if float is fine; nor has any other here"


def test_a_model_without_operations_has_no_empty_table(tmp_path: Path) -> None:
    with pytest.raises(qfx.CoverageError) as raised:
        qfx.quantize(nn.Identity().eval(), torch.randn(2, 8))
    text = str(raised.value)
    assert "Operations: none that computes floats\n" in text
    assert "Size: 0.0 kB -> 0.0 kB (nothing to hold)\n" in text
    assert "site" not in text
    report = qfx.QuantizationReport((), None, (0, 0), "x86")
    assert "<p>nothing to hold</p>" in report.to_html(tmp_path / "r.html").read_text()
    assert size_ratio(5, 5) == "the same"
