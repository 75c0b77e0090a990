"""smooth-norms and smooth-inputs: scales of channels move, where outputs then err less."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.numerics.measures import sqnr
from qfx.quant.channel_mean import ChannelMean
from tests.cases.flow import randn
from tests.passes.stages import change

DATA = [randn(4, 5, 32, seed=i) for i in range(4)]


class Block(nn.Module):
    """A norm with a few large channels, read by two layers and by a residual; then a GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.up, self.gate, self.down = nn.Linear(32, 48), nn.Linear(32, 48), nn.Linear(48, 32)
        with torch.no_grad():
            self.norm.weight[::8] = 40.0
            self.up.weight[::12] *= 40.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return x + self.down(F.gelu(self.up(x))) * self.gate(x).mean(-1, keepdim=True)


class Norm(nn.Module):
    """A norm and a layer."""

    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(32, **options), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(x))


def made(model: nn.Module, **options: object) -> qfx.QuantizedModel:
    return qfx.quantize(model, DATA[0], calibration_data=DATA, backend="x86", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def block() -> nn.Module:
    torch.manual_seed(0)
    return Block().eval()


@pytest.fixture(scope="module")
def smoothed(block: nn.Module) -> qfx.QuantizedModel:
    return made(block)


def test_outputs_err_less(block: nn.Module, smoothed: qfx.QuantizedModel) -> None:
    fast, x = made(block, effort="fast"), randn(8, 5, 32, seed=9)
    with torch.no_grad():
        expected = block(x)
        assert sqnr(expected, smoothed(x)) > sqnr(expected, fast(x)) + 1


def test_the_stage_says_what_it_did(smoothed: qfx.QuantizedModel) -> None:
    stage = smoothed.history["smooth-norms"]
    assert any(event.rule.startswith("smooth-norms/") for event in stage.events)
    lines = [line for line in stage.snapshot.to_text().splitlines() if "layer_norm" in line]
    assert "@norm_weight_1" in lines[0] or "@norm.weight_1" in lines[0]
    assert "norm_scale" in stage.snapshot.to_text()  # what the residual reads
    inputs = smoothed.history["smooth-inputs"]
    assert any(event.rule.startswith("smooth-inputs/") for event in inputs.events)


def test_the_model_stays_as_it_is(block: nn.Module, smoothed: qfx.QuantizedModel) -> None:
    torch.manual_seed(0)
    again = Block()
    assert all(map(torch.equal, block.state_dict().values(), again.state_dict().values()))


def test_deterministic(block: nn.Module, smoothed: qfx.QuantizedModel) -> None:
    assert torch.equal(made(block)(DATA[1]), smoothed(DATA[1]))


def test_norms_whose_channels_are_alike_stay() -> None:
    torch.manual_seed(0)
    stage = made(Norm().eval()).history["smooth-norms"]
    assert not stage.events
    assert ["no scale" in miss.reason for miss in stage.near_misses] == [True]


def test_norms_without_a_weight_stay() -> None:
    stage = made(Norm(elementwise_affine=False).eval()).history["smooth-norms"]
    assert not stage.events
    assert [miss.reason for miss in stage.near_misses] == [
        "it has no weight for each channel of the last dim"
    ]


def test_shared_weights_stay() -> None:
    class Shared(Norm):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.fc(self.norm(x)))

    stage = made(Shared().eval()).history["smooth-norms"]
    assert [miss.reason for miss in stage.near_misses] == ["a weight that reads it is shared"]


@pytest.mark.parametrize("name", ["smooth-norms", "smooth-inputs"])
def test_each_can_be_left_out(name: str) -> None:
    pipeline = qfx.pipelines.static().without(name)
    assert name not in str(pipeline)
    assert name in str(qfx.pipelines.static())


def test_peaks_add_up_over_batches() -> None:
    recorder, x = ChannelMean(1), randn(6, 3, 4)
    for part in (x[:1], x[1:], x[:0]):
        recorder(part)
    assert torch.equal(recorder.peak, x.abs().amax((0, 2)))


def test_efforts_are_pipelines() -> None:
    fast = str(qfx.pipelines.static(effort="fast"))
    assert not {"smooth-norms", "correct-bias", "record-input-means"} & set(fast.splitlines())
    assert str(qfx.pipelines.static(effort="default")) == str(qfx.pipelines.static())


def test_an_effort_that_is_unknown_or_beside_a_pipeline_is_an_error() -> None:
    model = Norm().eval()
    with pytest.raises(qfx.ConfigError, match="effort='much': choose one of 'fast', 'default'"):
        qfx.quantize(model, DATA[0], effort="much")
    with pytest.raises(qfx.ConfigError, match="chooses the passes, and so does pipeline="):
        qfx.prepare(model, DATA[0], effort="fast", pipeline=qfx.pipelines.static())


def test_convert_leaves_the_prepared_model(block: nn.Module, smoothed: qfx.QuantizedModel) -> None:
    prepared = qfx.calibrate(qfx.prepare(block, DATA[0], backend="x86"), DATA)
    before = {name: value.clone() for name, value in prepared.state_dict().items()}
    first, second = qfx.convert(prepared), qfx.convert(prepared)
    assert all(torch.equal(before[n], value) for n, value in prepared.state_dict().items())
    assert torch.equal(first(DATA[1]), smoothed(DATA[1]))
    assert torch.equal(second(DATA[1]), smoothed(DATA[1]))


def test_batches_go_with_the_state(block: nn.Module, smoothed: qfx.QuantizedModel) -> None:
    calibrated = qfx.calibrate(qfx.prepare(block, DATA[0], backend="x86"), DATA)
    fresh = qfx.prepare(block, DATA[0], backend="x86")
    fresh.load_state_dict(calibrated.state_dict())
    assert torch.equal(qfx.convert(fresh)(DATA[1]), smoothed(DATA[1]))
    without = {n: v for n, v in calibrated.state_dict().items() if not n.startswith("samples.")}
    fresh.load_state_dict(without)
    (miss,) = qfx.convert(fresh).history["smooth-norms"].near_misses
    assert "calibration kept no batch" in miss.reason


def test_a_second_time_changes_nothing(block: nn.Module) -> None:
    passes = qfx.pipelines.static().passes
    at = next(i for i, step in enumerate(passes) if step.name == "smooth-inputs") + 1
    again = [qfx.get_pass(name) for name in ("smooth-norms", "smooth-inputs")]
    pipeline = qfx.Pipeline((*passes[:at], *again, *passes[at:]), method="static")
    stages = [s for s in made(block, pipeline=pipeline).history if s.name.startswith("smooth-")]
    assert [bool(stage.events) for stage in stages] == [True, True, False, False]


AFTER = """\
- %norm : f32[4,5,32] = layer_norm(%x_1, @norm.weight, @norm.bias, normalized_shape=(32,))
- %observer_0 : f32[4,5,32] = HistogramObserver[@observer_0](%norm)
- %input_mean : f32[4,5,32] = ChannelMean[@input_mean](%observer_0)
- %up_gelu : f32[4,5,48] = linear+gelu(%input_mean, @up.weight, @up.bias, gelu='none')
+ %norm : f32[4,5,32] = layer_norm(%x_1, @norm.weight_1, @norm.bias_1, normalized_shape=(32,))
+ %norm_2 : f32[4,5,32] = mul(%norm, @norm_scale)
+ %observer_0_1 : f32[4,5,32] = MinMaxObserver[@observer_0_1](%norm)
+ %input_mean : f32[4,5,32] = ChannelMean[@input_mean](%observer_0_1)
+ %up_gelu : f32[4,5,48] = linear+gelu(%input_mean, @up.weight_1, @up.bias, gelu='none')
- %gate : f32[4,5,48] = linear(%input_mean, @gate.weight, @gate.bias)
+ %gate : f32[4,5,48] = linear(%input_mean, @gate.weight_1, @gate.bias)
- %add : f32[4,5,32] = add(%norm, %mul)
+ %add : f32[4,5,32] = add(%norm_2, %mul)
"""


def test_the_graph_before_and_after(smoothed: qfx.QuantizedModel) -> None:
    assert change(smoothed.history, "smooth-norms") == AFTER
