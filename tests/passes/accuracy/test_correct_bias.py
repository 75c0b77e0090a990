"""Bias correction: the mean error of rounded weights is known, and goes into the bias."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import vocab
from qfx.quant.channel_mean import ChannelMean
from qfx_passes.accuracy.correct_bias import mean_output_shift
from tests.passes.stages import change


@torch.no_grad()
def _output_bias(model: nn.Module, quantized: nn.Module, x: Tensor) -> float:
    """Largest mean error of a channel, in units of the output's standard deviation."""
    exact = model(x)
    error = (quantized(x) - exact).transpose(0, 1).flatten(1).mean(1)
    return float(error.abs().max() / exact.std())


@pytest.mark.parametrize("groups", [1, 2])
def test_shift_is_exact_for_constant_channels(groups: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, groups=groups, bias=False).double()
    error = torch.randn_like(conv.weight)
    mean = torch.randn(4, dtype=torch.float64)
    x = mean.reshape(1, 4, 1, 1).expand(2, 4, 5, 5)
    shifted = torch.nn.functional.conv2d(x, error, groups=groups)
    expected = mean_output_shift(error, mean, groups)
    torch.testing.assert_close(shifted, expected.reshape(1, 6, 1, 1).expand_as(shifted))


def test_shift_of_linear_is_the_error_times_the_mean() -> None:
    error, mean = torch.randn(3, 5).double(), torch.randn(5).double()
    torch.testing.assert_close(mean_output_shift(error, mean, 1), error @ mean)


@pytest.mark.parametrize("bias", [True, False])
def test_correction_removes_the_mean_error(bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(32, 8, 3, bias=bias).eval()
    x = torch.rand(8, 32, 12, 12) + 1.0  # one-sided, as after a relu
    # 4-bit weights, so that their error is what matters
    weight = qfx.QuantSpec(torch.int8, symmetric=True, per_channel=True, quant_min=-7, quant_max=7)
    qconfig = qfx.QConfig(qfx.QuantSpec(torch.uint8), weight)
    plain = qfx.pipelines.static(effort="fast")
    without = qfx.quantize(model, x, backend="reference", qconfig=qconfig, pipeline=plain)
    corrected = qfx.quantize(model, x, backend="reference", qconfig=qconfig)
    before, after = (_output_bias(model, q, x) for q in (without, corrected))
    assert before > 0.05
    assert after < before / 10


def test_recorders_leave_no_trace() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    prepared = qfx.prepare(model, torch.randn(1, 3, 9, 9), backend="reference")
    assert sum(isinstance(m, ChannelMean) for m in prepared.modules()) == 2
    qfx.calibrate(prepared, [torch.randn(1, 3, 9, 9)])
    quantized = qfx.convert(prepared)
    assert not any(isinstance(m, ChannelMean) for m in quantized.modules())
    assert not any(n.op == "call_module" for n in quantized.graph.nodes)


def test_transposed_convolutions_keep_their_bias() -> None:
    model = nn.ConvTranspose2d(3, 4, 3).eval()
    quantized = qfx.quantize(model, torch.rand(2, 3, 8, 8), backend="reference")
    node = next(n for n in quantized.graph.nodes if vocab.is_op(n, vocab.CONV_TRANSPOSE2D))
    bias = getattr(quantized, str(vocab.bound(node)["bias"].target))
    assert torch.equal(bias, model.bias)


def test_channel_means_add_up_over_batches() -> None:
    recorder = ChannelMean(1)
    x = torch.randn(6, 3, 4)
    assert not recorder.seen
    for part in (x[:1], x[1:], x[:0]):
        assert recorder(part) is part
    torch.testing.assert_close(recorder.mean(), x.double().mean((0, 2)), rtol=0, atol=1e-7)


class PaddedTokens(nn.Module):
    """Cosine similarity of tokens, some of them padding: the heart of Swin V2's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(32, 16)
        with torch.no_grad():
            self.project.bias[8:] = 0.0  # the keys

    def forward(self, x: Tensor) -> Tensor:
        query, key = self.project(F.pad(x, (0, 0, 0, 3))).chunk(2, -1)
        return F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)


@torch.no_grad()
def _projection_bias(model: nn.Module, x: Tensor) -> tuple[Tensor, qfx.QuantizedModel]:
    quantized = qfx.quantize(model, x, backend="reference")
    node = next(n for n in quantized.graph.nodes if vocab.is_op(n, vocab.LINEAR, vocab.CONV2D))
    bias = vocab.bound(node)["bias"]
    return getattr(quantized, str(bias.target)) if bias is not None else torch.zeros(0), quantized


def test_zero_inputs_keep_zero_outputs() -> None:
    torch.manual_seed(0)
    model, x = PaddedTokens().eval(), torch.rand(2, 5, 32) + 1.0
    bias, quantized = _projection_bias(model, x)
    assert torch.equal(bias[8:], torch.zeros(8))
    assert not torch.equal(bias[:8], model.project.bias[:8])  # no zeros to keep: corrected
    exact, similarities = model(x), quantized(x)
    assert torch.equal(similarities[..., 5:], torch.zeros(2, 8, 3))
    torch.testing.assert_close(similarities, exact, rtol=0, atol=0.05)


def test_zeros_of_a_bias_are_corrected_where_no_input_is_zero() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 16, bias=False)).eval()
    x = torch.rand(2, 5, 32) + 1.0
    x[..., :31] *= torch.rand(2, 5, 31) > 0.5  # zeros, but no vector of zeros
    assert _projection_bias(model, x)[0].all()
    x[0, 0] = 0.0
    assert _projection_bias(model, x)[0].numel() == 0


@pytest.mark.parametrize(("edge", "kept"), [(3, True), (2, False)])
def test_a_convolution_must_see_zeros_under_its_whole_kernel(edge: int, kept: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=(1, 0), bias=False)).eval()
    x = torch.rand(1, 3, 8, 8) + 0.5
    x[..., 4 : 4 + edge, 4:7] = 0.0
    assert (_projection_bias(model, x)[0].numel() == 0) is kept


def test_a_value_read_along_two_axes_has_two_means() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 1), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.conv(x), self.linear(x)

    model, x = Both().eval(), torch.rand(2, 3, 6, 8)
    quantized = qfx.quantize(model, x, backend="reference")
    for exact, result in zip(model(x), quantized(x), strict=True):
        torch.testing.assert_close(result, exact, rtol=0, atol=0.02)


def test_means_that_are_not_finite_are_told() -> None:
    x = torch.full((4, 3), torch.nan)
    model = nn.Linear(3, 2).eval()
    made = qfx.quantize(
        model, torch.ones(4, 3), method="dynamic", backend="reference", calibration_data=[x]
    )
    assert made(torch.ones(4, 3)).isfinite().all()
    reasons = [miss.reason for miss in made.history["correct-bias"].near_misses]
    assert reasons == ["calibration saw NaN or infinite values in what it reads"]


AFTER = """\
- %input_mean : f32[2,3,6,6] = ChannelMean[@input_mean](%observer_0)
- %_0 : f32[2,4,4,4] = conv2d(%input_mean, @0.weight, @0.bias)
+ %_0 : f32[2,4,4,4] = conv2d(%observer_0, @0.weight, @0.bias_1)
"""


def test_the_graph_before_and_after() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    stages = qfx.quantize(model, torch.rand(2, 3, 6, 6), backend="reference").history
    assert change(stages, "correct-bias").replace("observer_1", "observer_0") == AFTER
