"""Training takes over what calibration of the same model found, and nothing of another's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qfx
from qfx.quant.fake_quant import FakeQuantize
from tests.cases.flow import seeded
from tests.passes.stages import Net, Normed, X, change, quantized, text


@pytest.fixture(scope="module")
def calibrated() -> qfx.QuantizedModel:
    return quantized()


def prepared(model: nn.Module, start: qfx.QuantizedModel | None) -> qfx.PreparedModel:
    options = {"method": "qat", "backend": "reference", "qparams_from": start}
    return qfx.prepare(model.train(), X, **options)


def scales(model: nn.Module) -> list[float]:
    """Of the fake-quants of activations, those that have a range."""
    found = (m for m in model.modules() if type(m) is FakeQuantize)
    return sorted(float(m.qparams().scale) for m in found if m.seen)


def test_the_graph_is_that_of_training_and_the_qparams_are_those_of_the_model(
    calibrated: qfx.QuantizedModel,
) -> None:
    without, taken = (prepared(seeded(Net), start) for start in (None, calibrated))
    shown = text(taken.history, "start-from")
    assert shown == text(without.history, "start-from")
    assert "%fake_quant_1 : f32[2,4,4,4] = FakeQuantize[@fake_quant_1](%conv_relu)" in shown
    assert scales(without) == []
    assert len(scales(taken)) == 3  # the mean hands on those of what it reads
    assert torch.equal(qfx.convert(taken).reference(X), calibrated.reference(X))


def test_another_model_has_nothing_to_give(calibrated: qfx.QuantizedModel) -> None:
    """Though it begins with a convolution, too."""
    other = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))
    with pytest.raises(qfx.ConfigError, match="qparams_from has no quantized value in common"):
        prepared(other, calibrated)


SHIFTED = """\
- %conv_bn_1 : f32[4] = fold_bias(BN, eps=1e-05)
+ %conv_bn_1 : f32[4] = fold_bias(BN, None, @bn.bias_shift, eps=1e-05)
"""


def test_the_bias_of_a_fold_is_moved() -> None:
    start = qfx.quantize(seeded(Normed), X, backend="reference")
    taken = prepared(seeded(Normed), start)
    shown = change(taken.history, "start-from")
    folded = "@bn.running_mean, @bn.running_var, @bn.weight, @bn.bias"
    assert shown.replace(folded, "BN") == SHIFTED
