"""Tensors are compared in any layout and dtype, NaN with NaN."""

from __future__ import annotations

import math

import pytest
import torch

from qfx.graph.layouts import are_equal

DTYPES = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_equals_nan(dtype: torch.dtype) -> None:
    one, other = (torch.tensor([math.nan, x]).to(dtype) for x in (1.0, 2.0))
    assert are_equal(one, one.clone())
    assert not are_equal(one, other)
    assert not are_equal(one, one[:1])
    assert not are_equal(one, torch.tensor([1.0, 1.0]).to(dtype))


def test_sparse_tensors_are_compared_by_their_elements() -> None:
    one = torch.tensor([[math.nan, 0.0], [0.0, 1.0]])
    assert are_equal(one.to_sparse(), one.to_sparse())
    assert not are_equal(one.to_sparse(), one)
