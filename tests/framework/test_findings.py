"""What passes record of nodes is shown everywhere, and kept through rewriting."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx.framework.instruments import Instrument
from qfx.graph.macs import macs


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3)))


@dataclass(frozen=True)
class Unit:
    scale: float


class CountWork(qfx.Pass):
    name = "count-work"
    label: str = "macs.x"

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        for node in graph.nodes:
            if macs(node):
                ctx.record(node, self.label, macs(node) * ctx.get(Unit).scale)


class Watch(Instrument):
    def __init__(self) -> None:
        self.names: list[str] = []

    def after_pass(self, step: qfx.Pass, ctx: qfx.PassContext, stage: qfx.Stage) -> None:
        self.names.append(step.name)


X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
WORK = 3 * 9 * 4 * 36


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@pytest.fixture(scope="module")
def quantized(watch: Watch) -> qfx.QuantizedModel:
    steps = qfx.pipelines.static().insert_after("canonicalize", CountWork())
    return qfx.quantize(
        Net().eval(), X, backend="x86", pipeline=steps, settings=[Unit(0.5)], instruments=[watch]
    )


def test_shown_in_text_drawing_json_and_graph(quantized: qfx.QuantizedModel) -> None:
    view = quantized.history["count-work"].snapshot
    assert "macs.x=1944" in next(line for line in view.to_text().splitlines() if "%conv " in line)
    assert "macs.x=1944" in view.to_dot().source
    nodes = {node["name"]: node for node in json.loads(view.to_json())["nodes"]}
    assert nodes["conv"]["findings"] == {"macs.x": WORK / 2}
    assert "findings" not in nodes["relu"]
    assert view.to_networkx().nodes["conv"]["findings"] == {"macs.x": WORK / 2}


def test_kept_through_rewriting(quantized: qfx.QuantizedModel) -> None:
    assert quantized.history["fuse-post-ops"].snapshot["conv_relu"].findings == (
        ("macs.x", WORK / 2),
    )
    kernels = [r for r in quantized.history[-1].snapshot if "qconv" in r.target]
    assert [dict(r.findings) for r in kernels] == [{"macs.x": WORK / 2}]


def test_a_column_of_the_report_and_its_page(quantized: qfx.QuantizedModel, tmp_path: Path) -> None:
    sites = {site.node: site for site in quantized.report.sites}
    assert sites["conv"].findings == {"macs.x": WORK / 2}
    assert sites["fc"].findings == {"macs.x": 4.0}
    lines = str(quantized.report).splitlines()
    header = next(line for line in lines if line.startswith("site "))
    assert header.split()[-2:] == ["macs.x", "source"]
    assert "1944" in next(line for line in lines if line.startswith("conv "))
    page = quantized.report.to_html(tmp_path / "page.html").read_text()
    assert '<th scope="col">macs.x</th>' in page
    assert '<td class="number" data-key="4.0">4</td>' in page


def test_kept_in_files(quantized: qfx.QuantizedModel, tmp_path: Path) -> None:
    qfx.save(quantized, tmp_path / "q.qfx", history=True)
    loaded = qfx.load(tmp_path / "q.qfx")
    assert loaded.report.sites == quantized.report.sites
    assert loaded.history["count-work"].snapshot["conv"].findings == (("macs.x", WORK / 2),)


def test_instruments_see_the_passes_of_both_halves(
    quantized: qfx.QuantizedModel, watch: Watch
) -> None:
    assert watch.names == [stage.name for stage in quantized.history][1:]


def test_no_instrument() -> None:
    with pytest.raises(qfx.ConfigError, match=r"no Instrument .a class; write it with parentheses"):
        qfx.prepare(Net().eval(), X, instruments=[Watch])
    with pytest.raises(qfx.ConfigError, match="instruments has 3, which is no Instrument"):
        qfx.run_passes(Net().eval(), [], X, instruments=[3])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("a b", 1, "'a b' is no name for what is recorded of %relu"),
        ("t", torch.ones(1), "t of %relu is a Tensor; record a text, a flag or a number"),
    ],
)
def test_what_cannot_be_recorded(name: str, value: object, message: str) -> None:
    class Record(qfx.Pass):
        name = "record"

        def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
            relu = next(n for n in graph.nodes if n.target is vocab.RELU)
            ctx.record(relu, given, value)

    given = name
    with pytest.raises(qfx.ConfigError, match=message) as raised:
        qfx.run_passes(nn.ReLU(), [Record()], X)
    assert raised.value.node == "relu"


def test_it_is_recorded_of_a_node_not_of_a_name() -> None:
    class Names(qfx.Pass):
        name = "names"

        def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
            ctx.record("conv", "cost", 1)  # type: ignore[arg-type]

    with pytest.raises(qfx.ConfigError, match="of a node of the graph, not of 'conv'"):
        qfx.run_passes(nn.ReLU(), [Names()], torch.ones(1))
