"""Which engine packs a convolution on PyTorch's quantized dtypes, and that its kernel is exact."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.backends import hardware
from qfx.backends.quantized import convs as quantized_convs
from qfx.backends.quantized import dtypes as quantized_dtypes
from qfx.backends.quantized.saturation import reduces
from tests.cases.flow import quantized, step

DEPTHWISE = {
    "conv1d": (lambda: nn.Conv1d(104, 104, 3, groups=104), (2, 104, 12)),
    "conv2d 3x3": (lambda: nn.Conv2d(104, 104, 3, padding=1, groups=104), (2, 104, 8, 8)),
    "conv2d 7x7": (lambda: nn.Conv2d(104, 104, 7, padding=3, groups=104), (1, 104, 9, 9)),
    "conv2d stride": (lambda: nn.Conv2d(104, 104, 3, 2, groups=104), (1, 104, 9, 9)),
    "two a group": (lambda: nn.Conv2d(104, 208, 3, groups=104), (1, 104, 8, 8)),
    "odd": (lambda: nn.Conv2d(101, 101, 3, groups=101), (1, 101, 8, 8)),
    "conv3d": (lambda: nn.Conv3d(104, 104, 3, groups=104), (1, 104, 5, 6, 6)),
}


def loud(model: nn.Module) -> nn.Module:
    """With weights and a bias that take sums of two products beyond an int16."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if name == "weight" else -0.5)
    return model.eval()


def bright(*shape: int) -> Tensor:
    """Values near the top of the range, so that codes are large."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.8


@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_sums_do_not_saturate(name: str) -> None:
    make, shape = DEPTHWISE[name]
    model, x = loud(make()), bright(*shape)
    qmodel = quantized(model, x, "fbgemm", quantize=1, dequantize=1)  # within one step
    off = (qmodel(x) - model(x)).abs().max()
    assert off < 2.5 * step(qmodel)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        pytest.param(104, "onednn", id="depthwise"),
        pytest.param(52, "x86", id="two channels a group"),
        pytest.param(1, "x86", id="no groups"),
    ],
)
def test_only_depthwise_is_packed_for_onednn(
    groups: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reduces("x86"):
        pytest.skip("7-bit activations saturate nowhere")
    engines: list[str] = []
    engine = quantized_dtypes.engine

    def recorded(name: str) -> AbstractContextManager[None]:
        engines.append(name)
        return engine(name)

    monkeypatch.setattr(quantized_dtypes, "engine", recorded)
    model = nn.Conv2d(104, 104, 3, groups=groups).eval()
    qfx.quantize(model, bright(1, 104, 8, 8), backend="fbgemm")
    assert engines == [expected]


def test_seven_bits_need_no_other_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized_convs, "reduces", lambda engine: True)
    assert quantized_convs._depthwise_engine("x86") == "x86"


def test_qnnpack_packs_its_own() -> None:
    assert quantized_convs._depthwise_engine("qnnpack") == "qnnpack"


def test_depthwise_stays_float_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    if reduces("x86"):
        pytest.skip("7-bit activations saturate nowhere")
    bare = replace(hardware.hardware(), engines=("x86", "fbgemm"))
    monkeypatch.setattr(quantized_convs, "hardware", lambda: bare)
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=4)).eval()
    qmodel = qfx.quantize(model, bright(1, 8, 8, 8), backend="fbgemm")
    first, second = qmodel.report.sites
    assert (first.decision, first.reason) == ("float", "unsupported")
    assert "depthwise convolutions need engine onednn" in first.message
    assert second.decision == "quantized"
