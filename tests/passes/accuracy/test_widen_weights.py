"""widen-weights: a few weights that matter most get eight bits, the others keep their four."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx_passes.accuracy.widen_weights import WidenWeights
from tests.cases.flow import randn
from tests.passes.stages import change

FOUR = qfx.QuantSpec(torch.int8, symmetric=True, per_channel=True, quant_min=-7, quant_max=7)
STATIC = qfx.QConfig(qfx.QuantSpec(torch.uint8), FOUR)
DATA = [randn(4, 4, 8, 8, seed=i) for i in range(4)]


class Net(nn.Module):
    """A small first layer, through which all goes, and a large one of which little is left."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 64, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y: Tensor = 0.02 * self.wide(x.relu()) + x.repeat(1, 8, 1, 1)
        return y


class Steady(nn.Module):
    """Two layers of one size; what one of them reads hardly differs from its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.steady, self.lively = nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.steady(0.01 * x + 4) + self.lively(x)
        return y


def made(model: nn.Module, *steps: qfx.Pass, **options: object) -> qfx.QuantizedModel:
    pipeline = qfx.pipelines.static()
    for step in steps:
        pipeline = pipeline.insert_before("correct-bias", step)
    options = {"pipeline": pipeline, "qconfig": STATIC, "calibration_data": DATA, **options}
    return qfx.quantize(model, DATA[0], backend="reference", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def widened(net: nn.Module) -> qfx.QuantizedModel:
    return made(net, WidenWeights())


def _wide(quantized: qfx.QuantizedModel) -> set[str]:
    """The layers whose codes need more than four bits."""
    codes = {n: b for n, b in quantized.reference.named_buffers() if n.endswith(".weight_q")}
    return {n.partition(".")[0] for n, b in codes.items() if b.abs().max() > 8}


@torch.no_grad()
def _noise(model: nn.Module, quantized: nn.Module) -> float:
    x = torch.cat([randn(4, 4, 8, 8, seed=i) for i in range(20, 24)])
    return float((quantized(x) - model(x)).square().mean())


def test_what_matters_most_for_its_size_is_widened(
    net: nn.Module, widened: qfx.QuantizedModel
) -> None:
    assert _wide(widened) == {"first"}
    assert _noise(net, widened) < _noise(net, made(net))


def test_tells_what_it_did(widened: qfx.QuantizedModel) -> None:
    found = {s.label: dict(s.findings) for s in widened.report.sites}
    assert str(found["first"]["widen-weights"]).startswith("8 bits: ")
    reasons = {m.node: m.reason for m in widened.history["widen-weights"].near_misses}
    assert reasons.keys() == {"wide"}
    assert all("of the error, " in reason for reason in reasons.values())


def test_no_more_is_added_than_its_share(net: nn.Module) -> None:
    assert not _wide(made(net, WidenWeights(share=0.001)))


def test_what_another_bias_makes_up_for_does_not_count() -> None:
    torch.manual_seed(0)
    quantized = made(Steady().eval(), WidenWeights(share=0.5))  # room for one
    assert _wide(quantized) == {"lively"}


def test_small_parts_of_the_error_are_worth_nothing(net: nn.Module) -> None:
    assert not _wide(made(net, WidenWeights(worth=1000.0)))


def test_twice_is_once(net: nn.Module, widened: qfx.QuantizedModel) -> None:
    twice = made(net, WidenWeights(), WidenWeights())
    assert torch.equal(twice(DATA[1]), widened(DATA[1]))


def test_part_of_high_effort_alone() -> None:
    names = [p.name for p in qfx.pipelines.static(effort="high").passes]
    assert names.index("widen-weights") < names.index("gptq")
    assert "widen-weights" not in str(qfx.pipelines.static())


def test_eight_bits_are_enough(net: nn.Module) -> None:
    eight = made(net, WidenWeights(), qconfig=None)
    stage = eight.history["widen-weights"]
    assert not stage.events
    assert not stage.near_misses


def test_weights_that_are_only_stored_keep_their_size(net: nn.Module) -> None:
    pipeline = qfx.pipelines.dynamic().insert_before("correct-bias", WidenWeights())
    stored = made(net, method="dynamic", qconfig=qfx.QConfig(weight=FOUR), pipeline=pipeline)
    assert not _wide(stored)


AFTER = """\
- %first : f32[4,8,8,8] = conv2d(%input_mean, @first.weight, @first.bias)
+ %first : f32[4,8,8,8] = conv2d(%input_mean, @first.weight, @first.bias)
"""


def test_the_graph_before_and_after(widened: qfx.QuantizedModel) -> None:
    """The graph computes the same; how the weight is to be rounded is noted on the layer."""
    assert change(widened.history, "widen-weights") == AFTER
