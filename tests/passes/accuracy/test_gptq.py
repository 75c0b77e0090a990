"""gptq: codes are chosen by what the layer yields, and only where that helps on other batches."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx_passes.accuracy.gptq import Gptq
from qfx_passes.accuracy.rounding_in_turn import rounded_in_turn
from qfx_passes.accuracy.second_moments import Moments
from tests.passes.stages import change

FOUR = qfx.QConfig(
    qfx.QuantSpec(torch.uint8, observer="histogram"),
    qfx.QuantSpec(torch.int8, symmetric=True, per_channel=True, quant_min=-7, quant_max=7),
)
ACTIVATIONS_OF_16_BITS = qfx.QConfig(qfx.QuantSpec(torch.int16), FOUR.weight)


class Net(nn.Module):
    """A convolution, a depthwise one, one without a bias, and linear layers; one is transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depth = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, groups=12)
        self.up = nn.ConvTranspose2d(12, 12, 2)
        self.point, self.line = nn.Conv2d(12, 16, 1, bias=False), nn.Conv1d(16, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.depth(F.relu6(self.first(x))))
        x = F.relu(self.point(F.relu(self.up(x)))).flatten(2)
        y: Tensor = self.head(F.relu(self.line(x)).mean(2))
        return y


def batch(seed: int) -> Tensor:
    """Images whose neighbours, and channels, are alike."""
    made = torch.Generator().manual_seed(seed)
    x = F.interpolate(torch.randn(8, 2, 3, 3, generator=made), scale_factor=3, mode="bilinear")
    return torch.cat([x, x.sum(1, keepdim=True)], 1)


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().eval()


def made(**options: object) -> qfx.QuantizedModel:
    data = [batch(i) for i in range(6)]
    options = {"qconfig": FOUR, "backend": "reference", **options}
    return qfx.quantize(net(), data[0], calibration_data=data, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def high() -> qfx.QuantizedModel:
    return made(pipeline=qfx.pipelines.static(effort="high"))


def noise(model: nn.Module) -> float:
    x = torch.cat([batch(i) for i in range(100, 104)])
    with torch.no_grad():
        return float((model(x) - net()(x)).square().mean())


def test_errs_less_on_data_that_it_has_not_seen() -> None:
    pipeline = qfx.pipelines.static(effort="high")
    nearest = noise(made(pipeline=pipeline.without("gptq"), qconfig=ACTIVATIONS_OF_16_BITS))
    assert noise(made(pipeline=pipeline, qconfig=ACTIVATIONS_OF_16_BITS)) < 0.8 * nearest


def _scales(quantized: qfx.QuantizedModel) -> list[Tensor]:
    return [b for n, b in quantized.reference.named_buffers() if n.endswith("weight_scale")]


def test_sweeps_over_codes_and_scales_are_an_option() -> None:
    pipeline = qfx.pipelines.static(effort="high")
    swept = made(pipeline=pipeline, qconfig=ACTIVATIONS_OF_16_BITS)
    plain = made(pipeline=pipeline.replace("gptq", Gptq(sweeps=0)), qconfig=ACTIVATIONS_OF_16_BITS)
    assert noise(swept) < noise(plain)
    pairs = zip(_scales(plain), _scales(swept), strict=True)
    assert not all(torch.equal(one, other) for one, other in pairs)


def test_tells_what_it_did(high: qfx.QuantizedModel) -> None:
    stage = high.history["gptq"]
    reasons = {m.reason for m in stage.near_misses}
    assert "its weight is none of a linear layer, or of a convolution of one or two dims" in reasons
    found = {s.label: s.findings["gptq"] for s in high.report.sites if "gptq" in s.findings}
    assert {"first", "depth", "point"} <= found.keys()
    assert all(str(text).startswith("error x 0.") for text in found.values())


def test_the_default_effort_has_it_for_convolutions_with_small_windows() -> None:
    """Outputs of ``head`` read 8 values, and are no convolution's."""
    stage = made().history["gptq"]
    changed = {name.partition("_")[0] for event in stage.events for name in event.changed}
    assert {"first", "depth", "point"} <= changed
    named = {*changed, *(m.node.partition("_")[0] for m in stage.near_misses)}
    assert named == {"first", "depth", "point", "line"}
    few = qfx.pipelines.static().replace("gptq", Gptq(sweeps=0, windows=32))
    stage = made(pipeline=few).history["gptq"]  # those of ``line`` read 48
    changed = {name.partition("_")[0] for event in stage.events for name in event.changed}
    assert {*changed, *(m.node.partition("_")[0] for m in stage.near_misses)} <= {
        "first",
        "depth",
        "point",
    }
    assert "gptq" not in made(effort="fast").history


class Gated(nn.Module):
    """A depthwise convolution whose channels are scaled by what its pooled result says."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depth = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, groups=12)
        self.gate = nn.Conv2d(12, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.depth(F.relu(self.first(x))))
        return x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))


def test_the_default_effort_leaves_alone_what_reads_pooled_images() -> None:
    data = [batch(i) for i in range(6)]
    qmodel = qfx.quantize(Gated().eval(), data[0], calibration_data=data, qconfig=FOUR)
    stage = qmodel.history["gptq"]
    named = {name.partition("_")[0] for event in stage.events for name in event.changed}
    named |= {miss.node.partition("_")[0] for miss in stage.near_misses}
    assert named == {"first", "depth"}


def test_is_the_same_every_time(high: qfx.QuantizedModel) -> None:
    again = made(effort="high")
    assert torch.equal(again(batch(7)), high(batch(7)))
    assert {n.name for n in high.graph.nodes} == {n.name for n in again.graph.nodes}


def test_has_a_switch() -> None:
    pipeline = qfx.pipelines.static(effort="high")
    for name in [p.name for p in pipeline.passes if p.name in ("gptq", "widen-weights")]:
        pipeline = pipeline.without(name)
    without = made(pipeline=qfx.pipelines.static().without("gptq"))
    assert torch.equal(made(pipeline=pipeline)(batch(7)), without(batch(7)))


@pytest.mark.parametrize("method", ["weight_only", "dynamic"])
def test_other_methods_take_data_for_it(method: str) -> None:
    weight = FOUR.weight
    activation = None if method == "weight_only" else qfx.QuantSpec(torch.uint8, dynamic=True)
    options = {"method": method, "qconfig": qfx.QConfig(activation, weight), "effort": "high"}
    chosen = made(**options)
    left = _without(options)
    assert any("gptq" in site.findings for site in chosen.report.sites)
    assert noise(chosen) < noise(left)


def _without(options: dict[str, object]) -> qfx.QuantizedModel:
    """The same by the defaults, which take no data where only weights are quantized."""
    given = {**options, "effort": "default", "calibration_data": None}
    return qfx.quantize(net(), batch(0), backend="reference", **given)  # type: ignore[arg-type]


def test_leaves_alone_what_it_does_not_help() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Linear(8, 8).eval()
    data = [torch.randn(16, 8, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    pipeline = qfx.pipelines.static(effort="high").replace("gptq", Gptq(sweeps=0))
    quantized = qfx.quantize(
        layer, data[0], calibration_data=data, backend="reference", pipeline=pipeline,
        qconfig=qfx.QConfig(
            qfx.QuantSpec(torch.int16), qfx.QuantSpec(torch.int8, symmetric=True, per_channel=True)
        ),
    )  # fmt: skip
    (miss,) = [m for m in quantized.history["gptq"].near_misses if m.node]
    assert miss.reason == "the nearest codes err as little on other batches"


def _linear(x: Tensor, **options: object) -> qfx.QuantizedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Linear(8, 8).eval()
    return qfx.quantize(layer, x, backend="reference", qconfig=FOUR, effort="high", **options)  # type: ignore[arg-type]


def test_one_row_tells_nothing_to_choose_by() -> None:
    quantized = _linear(torch.linspace(-1, 1, 8).reshape(1, 8))
    (miss,) = [m for m in quantized.history["gptq"].near_misses if m.node]
    assert miss.reason == "calibration kept too little to choose by and to judge by"


def test_a_layer_may_read_what_never_varies() -> None:
    x = torch.linspace(-1, 1, 8).expand(4, 8)
    assert _linear(x, calibration_data=[x] * 5)(x).isfinite().all()


def test_rows_of_one_batch_are_not_judged_by_their_neighbours() -> None:
    """Pairs of rows that are the same: every second row would judge by what was chosen by."""
    made = torch.Generator().manual_seed(1)
    x = torch.randn(4, 8, generator=made).repeat_interleave(2, 0)
    quantized = _linear(x)
    (miss,) = [m for m in quantized.history["gptq"].near_misses if m.node]
    assert miss.reason == "the nearest codes err as little on other batches"


@pytest.mark.parametrize("shown", [True, False])
def test_shows_how_far_it_is(shown: bool, capsys: pytest.CaptureFixture[str]) -> None:
    _linear(torch.ones(4, 8), progress=shown)
    assert ("gptq: 100%" in capsys.readouterr().err) is shown


def test_a_shared_weight_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(torch.relu(self.layer(x)))
            return y

    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    quantized = qfx.quantize(Twice().eval(), x, backend="reference", qconfig=FOUR, effort="high")
    assert {m.reason for m in quantized.history["gptq"].near_misses} == {"its weight is shared"}


def test_training_starts_from_the_result(high: qfx.QuantizedModel) -> None:
    prepared = qfx.prepare(
        net(), batch(0), method="qat", backend="reference", qconfig=FOUR, qparams_from=high
    )
    assert prepared(batch(0)).isfinite().all()


def test_codes_are_the_best_for_two_inputs_that_are_alike() -> None:
    weight = torch.tensor([[[0.4, 0.4]]], dtype=torch.float64)
    moments = torch.tensor([[[1.0, 0.98], [0.98, 1.0]]], dtype=torch.float64)
    codes = rounded_in_turn(weight, moments, -7, 7)
    assert sorted(codes.flatten().tolist()) == [0.0, 1.0]  # the nearest would be 0 and 0


def test_codes_are_nearly_the_best_of_all() -> None:
    made = torch.Generator().manual_seed(0)
    x = torch.randn(4, 50, generator=made, dtype=torch.float64).cumsum(0)
    moments = (x @ x.T / 50).unsqueeze(0)
    weight = torch.randn(1, 3, 4, generator=made, dtype=torch.float64) * 3

    def error(codes: Tensor) -> Tensor:
        off = codes - weight
        return (off @ moments * off).sum(2)

    floor = weight.floor()
    every = [floor + torch.tensor(up).double() for up in itertools.product((0, 1), repeat=4)]
    best = torch.stack([error(codes) for codes in every]).amin(0)
    found = error(rounded_in_turn(weight, moments, -9, 9))
    assert (found <= error(weight.round()) + 1e-12).all()
    assert found.sum() < 1.5 * best.sum()


def test_blocks_are_but_a_faster_way() -> None:
    made = torch.Generator().manual_seed(0)
    x = torch.randn(2, 200, 400, generator=made, dtype=torch.float64)
    moments = x @ x.mT / 400
    weight = torch.randn(2, 3, 200, generator=made, dtype=torch.float64) * 3
    codes = rounded_in_turn(weight, moments, -8, 7)
    order = moments.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    for group in range(2):
        places = order[group]
        h = moments[group][places][:, places]
        factor = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
        left = weight[group][:, places].clone()
        for i in range(200):
            code = left[:, i].round().clamp(-8, 7)
            assert torch.equal(codes[group][:, places[i]], code)
            left -= ((left[:, i] - code) / factor[i, i])[:, None] * factor[i]


def test_moments_tell_the_error() -> None:
    made = torch.Generator().manual_seed(0)
    x, off = (torch.randn(2, 5, 30, generator=made) for _ in range(2))
    rounded = x + 0.1 * off
    moments = Moments.none(2, 5, x.device)
    moments.add(x[..., :10], rounded[..., :10])
    moments.add(x[..., 10:], rounded[..., 10:])
    weight, other = (torch.randn(2, 3, 5, generator=made).double() for _ in range(2))
    bias, other_bias = (torch.randn(2, 3, generator=made).double() for _ in range(2))
    y = weight @ x.double() + bias.unsqueeze(2)
    z = other @ rounded.double() + other_bias.unsqueeze(2)
    expected = (y - z).square().sum((0, 1)).mean()
    assert moments.error(weight, bias, other, other_bias) == pytest.approx(float(expected), 1e-5)


def test_is_idempotent(high: qfx.QuantizedModel) -> None:
    pipeline = qfx.pipelines.static(effort="high")
    twice = made(pipeline=pipeline.insert_after("gptq", qfx.get_pass("gptq")))
    assert torch.equal(twice(batch(7)), high(batch(7)))


AFTER = """\
- %first_relu6 : f32[8,12,9,9] = conv2d+clamp(%observer_8, @first.weight, @first.bias_1)
+ %first_relu6 : f32[8,12,9,9] = conv2d+clamp(%observer_8, @first.weight, @first.bias)
- %depth_relu : f32[8,12,7,7] = conv2d+relu(%observer_7, @depth.weight, @depth.bias_1)
+ %depth_relu : f32[8,12,7,7] = conv2d+relu(%observer_7, @depth.weight, @depth.bias)
- %point_relu_2 : f32[8,16,8,8] = conv2d+relu(%observer_5, @point.weight, @point.bias)
+ %point_relu_2 : f32[8,16,8,8] = conv2d+relu(%observer_5, @point.weight, @point.bias_1)
- %line_relu_3 : f32[8,8,62] = conv1d+relu(%observer_4, @line.weight, @line.bias_1)
+ %line_relu_3 : f32[8,8,62] = conv1d+relu(%observer_4, @line.weight, @line.bias)
"""


def test_the_graph_before_and_after(high: qfx.QuantizedModel) -> None:
    """Codes are chosen beside the graph; it gets the biases that go with them."""
    shown = change(high.history, "gptq")
    for told in (", padding=(1, 1), clamp=(0.0, 6.0)", ", groups=12"):
        shown = shown.replace(told, "")
    assert shown == AFTER
