"""training-form: weights get fake-quants to train with; those that stay float get none."""

from __future__ import annotations

import qfx
from tests.cases.flow import seeded
from tests.passes.stages import Net, X, text

MEANT = """\
%x : f32[2,3,6,6] = input
%x_1 : f32[2,3,6,6] = quant_stub(%x)
%fake_quant_3 : f32[2,3,6,6] = FakeQuantize[@fake_quant_3](%x_1)
%conv_relu : f32[2,4,4,4] = conv2d+relu(%fake_quant_3, @conv.weight, @conv.bias)
%fake_quant_1 : f32[2,4,4,4] = FakeQuantize[@fake_quant_1](%conv_relu)
%mean : f32[2,4] = mean(%fake_quant_1, dim=(2, 3))
%fake_quant_2 : f32[2,4] = FakeQuantize[@fake_quant_1](%mean)
%fc : f32[2,2] = linear(%fake_quant_2, @fc.weight, @fc.bias)
%fake_quant_0 : f32[2,2] = FakeQuantize[@fake_quant_0](%fc)
%fc_2 : f32[2,2] = dequant_stub(%fake_quant_0)
return %fc_2
"""

TRAINED = """\
%x : f32[2,3,6,6] = input
%x_1 : f32[2,3,6,6] = quant_stub(%x)
%fake_quant_3 : f32[2,3,6,6] = FakeQuantize[@fake_quant_3](%x_1)
%conv_weight_fake_quant : f32[4,3,3,3] = WeightFakeQuantize[@conv.weight_fake_quant](@conv.weight)
%conv_relu : f32[2,4,4,4] = conv2d+relu(%fake_quant_3, %conv_weight_fake_quant, @conv.bias)
%fake_quant_1 : f32[2,4,4,4] = FakeQuantize[@fake_quant_1](%conv_relu)
%mean : f32[2,4] = mean(%fake_quant_1, dim=(2, 3))
%fake_quant_2 : f32[2,4] = FakeQuantize[@fake_quant_1](%mean)
%fc_weight_fake_quant : f32[2,4] = WeightFakeQuantize[@fc.weight_fake_quant](@fc.weight)
%fc : f32[2,2] = linear(%fake_quant_2, %fc_weight_fake_quant, @fc.bias)
%fake_quant_0 : f32[2,2] = FakeQuantize[@fake_quant_0](%fc)
%fc_2 : f32[2,2] = dequant_stub(%fake_quant_0)
return %fc_2
"""


def test_the_graph_that_is_trained() -> None:
    prepared = qfx.prepare(seeded(Net).train(), X, method="qat", backend="reference")
    assert text(prepared.history, "start-from") == MEANT
    assert text(prepared.history, "training-form") == TRAINED


def test_a_weight_that_stays_float_gets_none() -> None:
    mapping = qfx.get_default_qconfig_mapping("reference", "qat").set_module_name("fc", None)
    prepared = qfx.prepare(
        seeded(Net).train(), X, method="qat", backend="reference", qconfig=mapping
    )
    shown = text(prepared.history, "training-form")
    assert "@conv.weight_fake_quant" in shown
    assert "@fc.weight_fake_quant" not in shown
    prepared(X)
    sites = qfx.convert(prepared).report.sites
    assert [s.reason for s in sites if s.op == "Linear"] == ["qconfig-none"]
