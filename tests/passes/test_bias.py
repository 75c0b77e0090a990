"""Bias correction: the mean error of rounded weights is known, and goes into the bias."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import vocab
from qfx.quant.channel_mean import ChannelMean
from qfx_passes.bias import mean_output_shift


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
    plain = qfx.pipelines.static().without("correct-bias").without("record-input-means")
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
