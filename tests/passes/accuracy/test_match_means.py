"""match-means: outputs are in the mean what the float graph yields, whatever was rounded before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.framework.pass_context import PassContext
from qfx.quant.annotation import made_up_by
from qfx_passes.accuracy import gptq, match_means
from qfx_passes.accuracy.match_means import MatchMeans
from qfx_passes.accuracy.walk import walk
from tests.cases.flow import randn
from tests.passes.stages import change

DATA = [randn(8, 3, 6, 6, seed=i).abs() for i in range(8)]
CRUDE = qfx.QConfig(  # 2 bits, so that clipping and rounding shift means
    qfx.QuantSpec(torch.uint8, quant_max=3, observer="histogram"),
    qfx.QuantSpec(torch.int8, symmetric=True, per_channel=True),
)


class Padded(nn.Module):
    """Two layers, borders of which matter."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, padding=2)
        self.second = nn.Conv2d(8, 8, 5, padding=2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).relu())
        return y


class Twice(Padded):
    """One layer that is called twice."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.second(self.first(x).relu()))
        return y


def made(model: nn.Module, data: list[Tensor] = DATA, without: str = "") -> qfx.QuantizedModel:
    pipeline = qfx.pipelines.static()
    pipeline = pipeline.without(without) if without else pipeline
    return qfx.quantize(
        model, data[0], calibration_data=data, backend="x86", qconfig=CRUDE, pipeline=pipeline
    )


@pytest.fixture(scope="module")
def padded() -> nn.Module:
    torch.manual_seed(0)
    return Padded().eval()


@pytest.fixture(scope="module")
def matched(padded: nn.Module) -> qfx.QuantizedModel:
    return made(padded)


@torch.no_grad()
def _means_err(model: nn.Module, quantized: nn.Module) -> float:
    x = torch.cat([randn(4, 3, 6, 6, seed=i).abs() for i in range(20, 40)])
    return float((quantized(x) - model(x)).mean((0, 2, 3)).square().sum())


def test_means_are_nearer(padded: nn.Module, matched: qfx.QuantizedModel) -> None:
    plain = made(padded, without="match-means")
    assert _means_err(padded, matched) < _means_err(padded, plain) / 2


def test_the_stage_says_what_it_did(matched: qfx.QuantizedModel) -> None:
    rules = {event.rule for event in matched.history["match-means"].events}
    assert any(rule.startswith("match-means/error of the means x 0.") for rule in rules)


def _made_up(quantized: nn.Module) -> list[tuple[float, ...]]:
    assert isinstance(quantized, qfx.QuantizedModel)
    return [made_up_by(node) for node in quantized.reference.graph.nodes]


def test_bisect_does_not_take_it_for_an_error(
    padded: nn.Module, matched: qfx.QuantizedModel, tmp_path: Path
) -> None:
    qfx.save(matched, tmp_path / "model.qfx", history=True)  # as bisect asks for it
    loaded = qfx.load(tmp_path / "model.qfx")
    assert any(_made_up(matched))
    assert _made_up(loaded) == _made_up(matched)
    plain = qfx.bisect(padded, made(padded, without="match-means"), DATA)
    for model in (matched, loaded):
        assert qfx.bisect(padded, model, DATA).sqnr == pytest.approx(plain.sqnr, abs=1e-3)


def test_deterministic(padded: nn.Module, matched: qfx.QuantizedModel) -> None:
    assert torch.equal(made(padded)(DATA[1]), matched(DATA[1]))


def _reasons(quantized: qfx.QuantizedModel) -> list[str]:
    return [miss.reason for miss in quantized.history["match-means"].near_misses]


def test_one_sample_tells_nothing(padded: nn.Module) -> None:
    reasons = _reasons(made(padded, [DATA[0][:1]]))
    assert reasons == ["one sample tells nothing of others, here and behind"]


def test_shared_biases_stay() -> None:
    torch.manual_seed(0)
    assert _reasons(made(Twice().eval())) == ["its bias is shared"] * 2


def test_what_is_matched_is_not_matched_again(padded: nn.Module) -> None:
    class Again(MatchMeans):
        name = "again"

    pipeline = qfx.pipelines.static().insert_after("match-means", Again())
    quantized = qfx.quantize(
        padded, DATA[0], calibration_data=DATA, backend="x86", qconfig=CRUDE,
        pipeline=pipeline,
    )  # fmt: skip
    assert not quantized.history["again"].events


def test_without_a_bias_there_is_nothing_to_match() -> None:
    torch.manual_seed(0)
    stage = made(Padded(bias=False).eval(), without="correct-bias").history["match-means"]
    assert len({n for event in stage.events for n in event.changed}) <= 1


def test_linear_layers_stay() -> None:
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(6, 6)).eval(), DATA[:2]
    stage = made(model, data).history["match-means"]
    assert not stage.events
    assert not stage.near_misses


AFTER = """\
- %first_relu : f32[8,8,6,6] = conv2d+relu(%observer_1, @first.weight, @first.bias_1)
+ %first_relu : f32[8,8,6,6] = conv2d+relu(%observer_1, @first.weight, @first.bias_1_1)
- %second : f32[8,8,6,6] = conv2d(%observer_0, @second.weight, @second.bias_1)
+ %second : f32[8,8,6,6] = conv2d(%observer_0, @second.weight, @second.bias_1_1)
"""


def test_the_graph_before_and_after(matched: qfx.QuantizedModel) -> None:
    shown = change(matched.history, "match-means")
    assert shown.replace(", padding=(2, 2)", "") == AFTER


def test_the_models_run_once_for_it_and_for_gptq(
    padded: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken along where gptq walks, and walks by itself without that."""
    walks: list[str] = []

    def counted(ctx: PassContext, *rest: Any) -> None:
        walks.append(ctx.rewriter.pass_name)
        walk(ctx, *rest)

    for each in (gptq, match_means):
        monkeypatch.setattr(each, "walk", counted)
    fast, plain = made(padded, without="match-means"), made(padded, without="gptq")
    assert walks == ["gptq", "match-means"]
    shared = made(padded)
    assert walks == ["gptq", "match-means", "gptq"]
    for each in (plain, shared):
        assert each.history["match-means"].events
        assert _means_err(padded, each) < _means_err(padded, fast) / 2
