"""Measuring and quantizing in one call: the same codes as the reference form, and none wraps."""

from __future__ import annotations

from math import isnan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qfx import ops
from qfx.backends.onednn.dynamic import quantize_dynamic

ENDS = st.floats(-1e6, 1e6, allow_nan=False, width=32)


@settings(max_examples=300, deadline=None)
@given(ENDS, ENDS, st.booleans(), st.booleans(), st.sampled_from([(0, 255), (0, 127), (0, 15)]))
def test_codes_are_those_of_the_reference(
    a: float, b: float, symmetric: bool, power_of_two: bool, bounds: tuple[int, int]
) -> None:
    x = torch.cat([torch.linspace(min(a, b), max(a, b), 257), torch.tensor([a, b])])
    codes, scale, zero_point = quantize_dynamic(x, *bounds, symmetric, power_of_two)
    expected_scale, expected_zero = ops.dynamic_qparams(
        x, quant_min=bounds[0], quant_max=bounds[1], symmetric=symmetric, power_of_two=power_of_two
    )
    assert (scale, zero_point) == (float(expected_scale), int(expected_zero))
    expected = ops.quantize(x, scale, zero_point, quant_min=bounds[0], quant_max=bounds[1])
    assert (codes.int() - expected.int()).abs().max() <= 1
    assert codes.max() <= bounds[1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_scale_of_what_is_not_finite_is_nan(value: float, symmetric: bool) -> None:
    x = torch.tensor([1.0, value, -1.0])
    codes, scale, zero_point = quantize_dynamic(x, symmetric=symmetric)
    assert codes.shape == (3,)
    assert isnan(scale)
    expected = ops.dynamic_qparams(x, symmetric=symmetric)
    assert isnan(float(expected[0]))
    assert zero_point == int(expected[1]) == 128


def test_memory_format_is_kept() -> None:
    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    codes, scale, zero_point = quantize_dynamic(x)
    assert codes.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(codes, quantize_dynamic(x.contiguous())[0])
    assert (scale, zero_point) == quantize_dynamic(x.contiguous())[1:]
