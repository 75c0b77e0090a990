"""Weights are quantized once, unless they change."""

from __future__ import annotations

import torch
from torch import fx, nn

from qfx import QuantSpec
from qfx.pass_base import PassContext
from qfx.quant.qparams import quantize_weight
from qfx_passes.weights import QuantizedWeights, quantized_weights

SPEC = QuantSpec(dtype=torch.int8, symmetric=True)
COARSE = QuantSpec(dtype=torch.int8, symmetric=True, quant_min=-8, quant_max=7)


def test_same_weight_and_spec_are_quantized_once() -> None:
    weights, weight = QuantizedWeights(), torch.randn(3, 4)
    integers, qparams = weights.get(weight, SPEC)
    meant = quantize_weight(weight, SPEC)
    assert torch.equal(integers, meant[0])
    assert qparams == meant[1]
    assert weights.get(weight, SPEC)[0] is integers
    assert not torch.equal(weights.get(weight, COARSE)[0], integers)


def test_a_weight_that_was_written_to_is_quantized_anew() -> None:
    weights, weight = QuantizedWeights(), torch.ones(2, 2)
    before = weights.get(weight, SPEC)[1].scale
    weight.mul_(2)
    assert weights.get(weight, SPEC)[1].scale == 2 * before


def test_inference_tensors_are_never_kept() -> None:
    with torch.inference_mode():
        weight = torch.ones(2, 2)
    weights = QuantizedWeights()
    assert weights.get(weight, SPEC)[0] is not weights.get(weight, SPEC)[0]


def test_a_pipeline_has_one() -> None:
    graph = fx.Graph()
    graph.output(graph.placeholder("x"))
    ctx = PassContext(fx.GraphModule(nn.Module(), graph))
    assert quantized_weights(ctx) is quantized_weights(ctx)
