"""place-observers: one observer on each value that is quantized; who shares qparams shares it."""

from __future__ import annotations

from torch import nn

import qfx
from tests.cases.flow import randn, seeded
from tests.passes.stages import quantized, text

BEFORE = """\
%x : f32[2,3,6,6] = input
%x_1 : f32[2,3,6,6] = quant_stub(%x)
%conv_relu : f32[2,4,4,4] = conv2d+relu(%x_1, @conv.weight, @conv.bias)
%mean : f32[2,4] = mean(%conv_relu, dim=(2, 3))
%fc : f32[2,2] = linear(%mean, @fc.weight, @fc.bias)
%fc_2 : f32[2,2] = dequant_stub(%fc)
return %fc_2
"""

AFTER = """\
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


def test_the_graph_before_and_after() -> None:
    history = quantized().history
    assert text(history, "annotate") == BEFORE
    assert text(history, "place-observers") == AFTER


def test_what_is_measured_at_run_time_has_none() -> None:
    history = quantized(method="dynamic").history
    assert "Observer" not in text(history, "place-observers")


def test_what_stays_float_has_none_and_says_why() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    mapping = qfx.get_default_qconfig_mapping("reference").set_module_name("1", None)
    made = qfx.quantize(model, randn(3, 4), qconfig=mapping, backend="reference")
    shown = text(made.history, "place-observers")
    assert shown.count("HistogramObserver") == 2  # what the first layer reads, and hands out
    assert "%_1_2 : f32[3,4] = dequant_stub(%_1)" in shown  # nothing observes the second
    assert [site.reason for site in made.report.sites] == ["", "qconfig-none"]
