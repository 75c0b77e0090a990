"""Weights are quantized once, unless they change."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

import qfx
from qfx import QuantSpec
from qfx.framework.pass_context import PassContext
from qfx.quant.qparams import quantize_weight
from qfx_passes.weights import QuantizedWeights, quantized_weights

SPEC = QuantSpec(dtype=torch.int8, symmetric=True)
COARSE = QuantSpec(dtype=torch.int8, symmetric=True, quant_min=-8, quant_max=7)


def test_same_weight_and_spec_are_quantized_once() -> None:
    weights, weight = QuantizedWeights(), torch.randn(3, 4)
    integers, qparams = weights.get("w", weight, SPEC)
    meant = quantize_weight(weight, SPEC)
    assert torch.equal(integers, meant[0])
    assert qparams == meant[1]
    assert weights.get("w", weight, SPEC)[0] is integers
    assert not torch.equal(weights.get("w", weight, COARSE)[0], integers)


def test_a_weight_that_was_written_to_is_quantized_anew() -> None:
    weights, weight = QuantizedWeights(), torch.ones(2, 2)
    before = weights.get("w", weight, SPEC)[1].scale
    weight.mul_(2)
    assert weights.get("w", weight, SPEC)[1].scale == 2 * before


def test_inference_tensors_are_never_kept() -> None:
    with torch.inference_mode():
        weight = torch.ones(2, 2)
    weights = QuantizedWeights()
    assert weights.get("w", weight, SPEC)[0] is not weights.get("w", weight, SPEC)[0]


def test_a_pipeline_has_one() -> None:
    graph = fx.Graph()
    graph.output(graph.placeholder("x"))
    ctx = PassContext(fx.GraphModule(nn.Module(), graph))
    assert quantized_weights(ctx) is quantized_weights(ctx)


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "reference"])
@pytest.mark.parametrize("method", ["dynamic", "weight_only"])
def test_a_weight_that_has_no_scale_is_named(method: str, backend: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8))).eval()
    x, wide = torch.randn(2, 8), qfx.QConfig(weight=QuantSpec(torch.float16))
    model[1][0].weight.data[0, 0] = 1e6
    with pytest.raises(qfx.CalibrationError, match=r"^1\.0\.weight holds values up to 1e\+06"):
        qfx.quantize(model, x, method="weight_only", qconfig=wide, backend=backend)
    model[1][0].weight.data[0, 0] = torch.nan
    with pytest.raises(qfx.CalibrationError, match=r"^1\.0\.weight: 1 NaN"):
        qfx.quantize(model, x, method=method, backend=backend)
