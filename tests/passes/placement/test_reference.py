"""reference: observers become quantize and dequantize, weights become integers."""

from __future__ import annotations

import pytest

from tests.passes.stages import quantized, text

STATIC = """\
%x : f32[2,3,6,6] = input
%x_2 : u8[2,3,6,6] = quantize(%x, s, z)
%x_3 : f32[2,3,6,6] = dequantize(%x_2, s, z)
%conv_weight_1 : f32[4,3,3,3] = dequantize(@conv.weight_q, @conv.weight_scale, @conv.weight_zero_point, axis=0)
%conv_relu : f32[2,4,4,4] = conv2d+relu(%x_3, %conv_weight_1, @conv.bias_1)
%conv_relu_1 : u8[2,4,4,4] = quantize(%conv_relu, s, z)
%conv_relu_2 : f32[2,4,4,4] = dequantize(%conv_relu_1, s, z)
%mean : f32[2,4] = mean(%conv_relu_2, dim=(2, 3))
%mean_2 : u8[2,4] = quantize(%mean, s, z)
%mean_3 : f32[2,4] = dequantize(%mean_2, s, z)
%fc_weight_1 : f32[2,4] = dequantize(@fc.weight_q, @fc.weight_scale, @fc.weight_zero_point, axis=0)
%fc : f32[2,2] = linear(%mean_3, %fc_weight_1, @fc.bias_1)
%fc_3 : u8[2,2] = quantize(%fc, s, z)
%fc_4 : f32[2,2] = dequantize(%fc_3, s, z)
return %fc_4
"""  # noqa: E501

DYNAMIC = """\
%x : f32[2,3,6,6] = input
%x_2 : (f32[], i32[]) = dynamic_qparams(%x)
%x_3 : f32[] = getitem(%x_2, 0)
%x_4 : i32[] = getitem(%x_2, 1)
%x_5 : u8[2,3,6,6] = quantize(%x, %x_3, %x_4)
%x_6 : f32[2,3,6,6] = dequantize(%x_5, %x_3, %x_4)
%conv_weight_1 : f32[4,3,3,3] = dequantize(@conv.weight_q, @conv.weight_scale, @conv.weight_zero_point, axis=0)
%conv_relu : f32[2,4,4,4] = conv2d+relu(%x_6, %conv_weight_1, @conv.bias)
%mean : f32[2,4] = mean(%conv_relu, dim=(2, 3))
%mean_2 : (f32[], i32[]) = dynamic_qparams(%mean)
%mean_3 : f32[] = getitem(%mean_2, 0)
%mean_4 : i32[] = getitem(%mean_2, 1)
%mean_5 : u8[2,4] = quantize(%mean, %mean_3, %mean_4)
%mean_6 : f32[2,4] = dequantize(%mean_5, %mean_3, %mean_4)
%fc_weight_1 : f32[2,4] = dequantize(@fc.weight_q, @fc.weight_scale, @fc.weight_zero_point, axis=0)
%fc : f32[2,2] = linear(%mean_6, %fc_weight_1, @fc.bias)
return %fc
"""  # noqa: E501

WEIGHT_ONLY = """\
%x : f32[2,3,6,6] = input
%conv_weight_1 : f32[4,3,3,3] = dequantize(@conv.weight_q, @conv.weight_scale, @conv.weight_zero_point, axis=0)
%conv_relu : f32[2,4,4,4] = conv2d+relu(%x, %conv_weight_1, @conv.bias)
%mean : f32[2,4] = mean(%conv_relu, dim=(2, 3))
%fc_weight_1 : f32[2,4] = dequantize(@fc.weight_q, @fc.weight_scale, @fc.weight_zero_point, axis=0)
%fc : f32[2,2] = linear(%mean, %fc_weight_1, @fc.bias)
return %fc
"""  # noqa: E501


@pytest.mark.parametrize(
    ("method", "after"), [("static", STATIC), ("dynamic", DYNAMIC), ("weight_only", WEIGHT_ONLY)]
)
def test_the_graph_of_each_method(method: str, after: str) -> None:
    made = quantized(method=method)
    assert text(made.history, "reference") == after


def test_near_miss_what_shares_qparams_is_not_quantized_anew_by_another_scale() -> None:
    graph = quantized().reference.graph
    scales = {n.name: n.args[1] for n in graph.nodes if n.name in ("conv_relu_1", "mean_2")}
    assert len(scales) == 2
    assert len(set(scales.values())) == 1
