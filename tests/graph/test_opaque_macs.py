"""The work of what stays as it was written counts: a float half of a model is no coverage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx


class Model(nn.Module):
    """A layer that is quantized, and then something that is not."""

    def __init__(self, module: nn.Module, call: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.module, self.call = nn.Linear(4, 4), module, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.module, self.first(x))


def site_of(report: qfx.QuantizationReport, path: str) -> Any:
    return next(site for site in report.sites if site.module_path == path)


X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("module", "call", "work"),
    [
        (nn.Bilinear(4, 4, 5), lambda m, x: m(x, x), 2 * 3 * 5 * 4 * 4),
        (nn.ConvTranspose1d(3, 5, 3, 2), lambda m, x: m(x[0], output_size=[9]), 4 * 3 * 5 * 3),
        (
            nn.ConvTranspose1d(3, 5, 3, 2),
            lambda m, x: m(x[0], output_size=[x.shape[-1] * 2 + 1]),
            4 * 3 * 5 * 3,
        ),
        (nn.RNN(4, 6), lambda m, x: m(x)[0], 2 * 3 * 6 * (4 + 6)),
        (nn.GRU(4, 6, 2), lambda m, x: m(input=x)[0], 2 * 3 * 3 * 6 * (4 + 6 + 6 + 6)),
        (
            nn.LSTM(4, 6, bidirectional=True, proj_size=2),
            lambda m, x: m(x)[0],
            2 * 3 * 2 * (4 * 6 * (4 + 2) + 6 * 2),
        ),
    ],
    ids=["bilinear", "transposed", "transposed, computed size", "rnn", "gru", "lstm"],
)
def test_opaque_modules_count(
    module: nn.Module, call: Callable[[Any, Tensor], Tensor], work: int
) -> None:
    report = qfx.quantize(Model(module, call).eval(), X, backend="reference").report
    macs = site_of(report, "module").macs
    assert macs == work
    assert report.coverage == pytest.approx(96 / (96 + macs))
    assert not report.unknown


def test_untranslated_calls_count() -> None:
    model = Model(nn.Identity(), lambda _, x: torch.addbmm(x[0][:, :3], x, x.transpose(1, 2)))
    report = qfx.quantize(model.eval(), X, backend="reference").report
    assert {s.node: s.macs for s in report.sites}["addbmm"] == 2 * 3 * 4 * 3


def made_where_the_input_is(_: nn.Module, x: Tensor) -> Tensor:
    mask = torch.ones(x.shape[0], 3, 4, device=x.device, dtype=x.dtype)
    return x + mask + torch.eye(3, 4).to(device=x.device, copy=True) + x.new_zeros(4)


def test_tensors_made_on_the_device_of_others_multiply_nothing() -> None:
    report = qfx.quantize(Model(nn.Identity(), made_where_the_input_is).eval(), X).report
    assert report.coverage == 1.0
    assert not report.unknown


def test_a_hooked_layer_counts_without_running_its_hook() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 4)).eval()
    devices: list[str] = []
    model[0].register_forward_hook(lambda _, __, result: devices.append(result.device.type))
    with pytest.raises(qfx.CoverageError, match=r"5\.9% of the multiply-accumulates"):
        qfx.quantize(model, torch.randn(2, 64), backend="reference", min_coverage=0.99)
    assert set(devices) == {"cpu"}
    report = qfx.quantize(model, torch.randn(2, 64), backend="reference").report
    site = site_of(report, "0")
    assert site.macs == 2 * 64 * 64
    assert "remove the hook" in site.remedy
    assert "remove the hook" not in report.sites[1].remedy


class LooksAtValues(nn.Linear):
    """What can't be run without values, behind a hook."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


def test_unknown_work_is_said_to_be_unknown(tmp_path: Path) -> None:
    module = LooksAtValues(4, 4)
    module.register_forward_hook(lambda *_: None)
    model = Model(module, lambda m, x: m(x)).eval()
    with pytest.warns(qfx.QfxWarning, match="work can't be known: module"):
        report = qfx.quantize(model, X, backend="reference", min_coverage=0.5).report
    assert [site.label for site in report.unknown] == ["module"]
    first, *_ = str(report).splitlines()
    assert first.endswith("96 of 96 known MACs quantized, not counting module: how much work that "
                          "is can't be known")  # fmt: skip
    page = report.to_html(tmp_path / "page.html").read_text()
    assert "96 of 96 known MACs" in page
    assert "?" in next(line for line in str(report).splitlines() if line.startswith("module"))


class Written(nn.Module):
    """A module, a function and a method that multiply, and what does not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gru = nn.Conv1d(3, 4, 1), nn.GRU(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.linear(self.conv(x).relu(), torch.ones(4, 4))
        return self.gru(x.matmul(torch.ones(4, 4)))[0]


def test_work_is_told_before_and_after_canonicalization() -> None:
    class Tell(qfx.Pass):
        name = "tell"

        def run(self, graph: torch.fx.Graph, ctx: qfx.PassContext) -> None:
            for node in graph.nodes:
                ctx.record(node, "macs", qfx.macs(node))

    class TellAsWritten(Tell):
        name = "tell-as-written"
        requires = qfx.Level.CAPTURED

    model = Written().eval()
    totals = []
    for step in (TellAsWritten(), Tell()):
        _, history = qfx.run_passes(model, [step], X)
        totals.append(sum(dict(r.findings).get("macs", 0) for r in history[-1].snapshot))
    work = 2 * 4 * (4 * 3 + 4 * 4 + 4 * 4 + 3 * 5 * (4 + 5))
    assert totals == [work, work]
