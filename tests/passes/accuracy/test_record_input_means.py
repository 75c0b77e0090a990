"""record-input-means: what quantized weights read passes a recorder of its channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.quant.channel_mean import ChannelMean
from tests.cases.flow import seeded
from tests.passes.stages import Net, X, text

BEFORE = """\
%x : f32[2,3,6,6] = input
%x_1 : f32[2,3,6,6] = quant_stub(%x)
%observer_3 : f32[2,3,6,6] = HistogramObserver[@observer_3](%x_1)
%conv_relu : f32[2,4,4,4] = conv2d+relu(%observer_3, @conv.weight, @conv.bias)
%observer_1 : f32[2,4,4,4] = HistogramObserver[@observer_1](%conv_relu)
%mean : f32[2,4] = mean(%observer_1, dim=(2, 3))
%observer_2 : f32[2,4] = HistogramObserver[@observer_1](%mean)
%fc : f32[2,2] = linear(%observer_2, @fc.weight, @fc.bias)
%observer_0 : f32[2,2] = HistogramObserver[@observer_0](%fc)
%fc_2 : f32[2,2] = dequant_stub(%observer_0)
return %fc_2
"""
AFTER = """\
%x : f32[2,3,6,6] = input
%x_1 : f32[2,3,6,6] = quant_stub(%x)
%observer_3 : f32[2,3,6,6] = HistogramObserver[@observer_3](%x_1)
%input_mean : f32[2,3,6,6] = ChannelMean[@input_mean](%observer_3)
%conv_relu : f32[2,4,4,4] = conv2d+relu(%input_mean, @conv.weight, @conv.bias)
%observer_1 : f32[2,4,4,4] = HistogramObserver[@observer_1](%conv_relu)
%mean : f32[2,4] = mean(%observer_1, dim=(2, 3))
%observer_2 : f32[2,4] = HistogramObserver[@observer_1](%mean)
%input_mean_1 : f32[2,4] = ChannelMean[@input_mean_1](%observer_2)
%fc : f32[2,2] = linear(%input_mean_1, @fc.weight, @fc.bias)
%observer_0 : f32[2,2] = HistogramObserver[@observer_0](%fc)
%fc_2 : f32[2,2] = dequant_stub(%observer_0)
return %fc_2
"""


def recorders(model: nn.Module, **options: Any) -> list[str]:
    found = qfx.prepare(model, X, backend="reference", **options)
    return [name for name, module in found.named_modules() if isinstance(module, ChannelMean)]


def test_text() -> None:
    history = qfx.prepare(seeded(Net), X, backend="reference").history
    assert text(history, "place-observers") == BEFORE
    assert text(history, "record-input-means") == AFTER


class Twice(nn.Module):
    """Two layers that read one value."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.one(x) + self.other(x)
        return y


def test_layers_that_read_one_value_share_a_recorder() -> None:
    assert len(recorders(seeded(Twice))) == 1


def test_zeros_are_looked_for_where_a_bias_has_some() -> None:
    model = seeded(Twice)
    with torch.no_grad():
        model.other.bias[0] = 0
    assert len(recorders(model)) == 2


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_none_where_no_bias_is_corrected(method: str) -> None:
    assert recorders(seeded(Net), method=method, effort="fast") == []


def test_none_for_a_layer_that_stays_float() -> None:
    mapping = qfx.get_default_qconfig_mapping("reference", "static").set_module_name("fc", None)
    assert recorders(seeded(Net), qconfig=mapping) == ["input_mean"]
