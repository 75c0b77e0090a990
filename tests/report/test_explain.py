"""explain: what became of an operation, by which rule, what else was tried, and what to do."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qfx
from qfx.report.explain import SHOWN, Explanation


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
        return self.head(self.drop(x.mean((2, 3))))  # type: ignore[no-any-return]


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def qmodel() -> qfx.QuantizedModel:
    mapping = qfx.get_default_qconfig_mapping("fbgemm", "static").set_module_name("head", None)
    return qfx.quantize(Net().eval(), X, backend="fbgemm", qconfig=mapping)


def entries(explanation: Explanation) -> dict[str, list[str]]:
    """The lines of an explanation of one site, by title."""
    found: dict[str, list[str]] = {}
    for line in str(explanation).splitlines()[1:]:
        title, text = line[2:13].strip(), line[14:]
        found.setdefault(title or next(reversed(found)), []).append(text)
    return found


def test_what_is_quantized(qmodel: qfx.QuantizedModel) -> None:
    found = qmodel.report.explain("blocks.0.conv")
    assert str(found).splitlines()[0].startswith("blocks.0.conv: Conv2d   # test_explain.py:")
    said = entries(found)
    assert said["decided"] == [
        "quantized, static: runs as quantized.conv2d; 41.5k MACs",
        "by set_global()",
        "in one step with blocks.0.bn, blocks.0.relu",
    ]
    rules = [line.split()[1] for line in said["how"]]
    assert rules == [
        "canonicalize/rename-spellings",
        "fuse-conv-bn/fold-batch-norm",
        "fuse-post-ops/fuse-activation",
        "lower",
    ]
    assert [line.partition("(")[0].split()[-1] for line in said["means"]] == [
        *("dequantize", "dequantize", "conv2d+relu", "quantize")
    ]
    assert not {"because", "what to do"} & said.keys()
    assert all(
        line.split()[1] in ("gptq", "match-means/layer") for line in said.get("also tried", [])
    )


def test_what_stays_float_says_what_else_was_tried(qmodel: qfx.QuantizedModel) -> None:
    said = entries(qmodel.report.explain("gelu"))
    (site,) = qmodel.report.explain("gelu").sites
    assert said["decided"] == ["float (no-kernel)"]
    assert said["because"] == [site.message]
    assert said["what to do"] == [site.remedy]
    tried = "fuse-post-ops/fuse-activation  backend fbgemm cannot fuse gelu into conv2d+relu"
    assert [line.partition(" ")[2] for line in said["also tried"]] == [tried]


def test_what_the_configuration_leaves_float(qmodel: qfx.QuantizedModel) -> None:
    said = entries(qmodel.report.explain("head"))
    assert said["decided"] == ["float (qconfig-none); 64 MACs"]
    assert said["because"] == ["the configuration leaves it float (set_module_name('head'))"]


def test_what_was_removed(qmodel: qfx.QuantizedModel) -> None:
    said = entries(qmodel.report.explain("drop"))
    assert said["decided"] == ["removed"]
    assert said["how"] == ["1 canonicalize/dropouts  removed %drop"]
    assert len(said["means"]) == 1


def test_a_near_miss_under_a_name_that_it_got_later(qmodel: qfx.QuantizedModel) -> None:
    said = entries(qmodel.report.explain("blocks.0:add"))
    assert said["also tried"] == ["5 fuse-post-ops/fuse-residual  layer: expected 1 user, has 2"]


@pytest.mark.parametrize(
    ("where", "labels"),
    [
        ("stem", "stem"),
        ("blocks.0.relu", "blocks.0.relu"),
        ("blocks.0.relu:relu_1", "blocks.0.relu:relu_1"),
        ("blocks_0_relu_1", "blocks.0.relu:relu_1"),
        ("blocks.0:add", "blocks.0:add"),
        ("blocks.0.c*", "blocks.0.conv"),
        ("*.bn", "blocks.0.bn"),
        ("*relu*", "blocks.0.relu blocks.0.relu:relu_1"),
        ("packed_weight", "stem"),
        ("blocks_0_conv_bn_relu", "blocks.0.conv blocks.0.bn blocks.0.relu"),
    ],
)
def test_what_names_what(where: str, labels: str, qmodel: qfx.QuantizedModel) -> None:
    found = qmodel.report.explain(where)
    assert [site.label for site in found.sites] == labels.split()


@pytest.mark.parametrize("where", ["blocks", "blocks.0", "blocks.*", "blocks*"])
def test_a_module_is_all_that_is_in_it(where: str, qmodel: qfx.QuantizedModel) -> None:
    found = qmodel.report.explain(where)
    inside = [site.label for site in qmodel.report.sites if site.label.startswith("blocks")]
    assert [site.label for site in found.sites] == inside
    text = str(found)
    assert text.startswith(f"{len(inside)} operations are at {where!r}\n\nblocks.0.conv: Conv2d")
    assert text.count("= conv2d+relu(") == 1, "what several mean is told once"
    assert text.count("means       as blocks.0.conv") == 2


def test_a_node_that_a_pass_put_there_is_explained_by_its_history(
    qmodel: qfx.QuantizedModel,
) -> None:
    stub = next(iter(qmodel.history["insert-stubs"].events)).added[0]
    text = str(qmodel.report.explain(stub))
    assert "insert-stubs" in text


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("hed", r"nothing in the report is called 'hed'; near it: 'head'\. What to do"),
        ("blocks.0.cnv", "near it: 'blocks.0.conv'"),
        ("blocks.7.*", "near it: 'blocks"),
        ("zzz", "is called 'zzz'. What to do: give a site as the report prints it"),
        (3, "takes a name, not int"),
    ],
)
def test_what_matches_nothing(where: str, message: str, qmodel: qfx.QuantizedModel) -> None:
    with pytest.raises(qfx.ConfigError, match=message):
        qmodel.report.explain(where)


def test_many_sites_are_named(qmodel: qfx.QuantizedModel) -> None:
    sites = tuple(
        replace(qmodel.report.sites[0], node=f"n{i}", module_path=f"n{i}") for i in range(SHOWN + 5)
    )
    text = str(replace(qmodel.report, sites=sites).explain("n*"))
    assert text.count("decided") == SHOWN
    assert text.endswith(f"... and 5 more (n{SHOWN}, n{SHOWN + 1}, n{SHOWN + 2}, ...)")


def test_copies_and_files_explain_the_same(qmodel: qfx.QuantizedModel, tmp_path: Path) -> None:
    text = str(qmodel.report.explain(""))
    assert all(site.label in text for site in qmodel.report.sites)
    assert str(copy.deepcopy(qmodel).report.explain("")) == text
    kept = qfx.load(qfx.save(qmodel, tmp_path / "kept.qfx", history=True))
    assert str(kept.report.explain("")) == text
    bare = qfx.load(qfx.save(qmodel, tmp_path / "bare.qfx"))
    said = entries(bare.report.explain("stem"))
    assert said["decided"] == entries(qmodel.report.explain("stem"))["decided"]
    assert said["how"] == [
        "the file was saved without its history; qfx.save(..., history=True) keeps it"
    ]
    assert "means" not in said
    with pytest.raises(qfx.ConfigError, match="near it: 'stem'"):
        bare.report.explain("stm")


@pytest.mark.parametrize("backend", ["x86", "reference"])
def test_dynamic_and_weights(backend: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)).eval()
    mapping = qfx.QConfigMapping().set_global(qfx.get_default_qconfig(backend, "dynamic"))
    mapping.set_module_name("1", qfx.get_default_qconfig(backend, "weight_only"))
    report = qfx.quantize(model, X[0, 0], backend=backend, qconfig=mapping).report
    assert entries(report.explain("0"))["decided"][0].startswith("quantized, dynamic: runs as")
    assert entries(report.explain("1"))["decided"][-1] == "by set_module_name('1')"


def test_what_was_trained() -> None:
    prepared = qfx.prepare(Net().train(), X, method="qat")
    prepared(X).sum().backward()
    report = qfx.convert(prepared).report
    said = entries(report.explain("blocks.0.conv"))
    assert said["decided"][0].startswith("quantized, static: runs as")
    assert said["how"]
    assert any("conv2d" in line for line in said["means"])
