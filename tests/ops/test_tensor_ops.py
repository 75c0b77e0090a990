"""Tensor operations on codes: rounding, bounds, broadcasting, wide sums, mistakes."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import qfx
from qfx import QParams, ops

U8, A, B = (0.5, 128), (0.25, 100), (0.125, 7)


def codes(*shape: int, seed: int = 0, dtype: torch.dtype = torch.uint8) -> Tensor:
    info = torch.iinfo(dtype)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(info.min, info.max + 1, shape, generator=generator).to(dtype)


def rounded(value: Fraction, scale: float, zero_point: int, low: int, high: int) -> int:
    """The definition in rational numbers, ties to the even code."""
    return min(max(round(value / Fraction(scale) + zero_point), low), high)


@pytest.mark.parametrize(
    ("operation", "formula"),
    [(ops.add, lambda a, b: a + b), (ops.sub, lambda a, b: a - b), (ops.mul, lambda a, b: a * b)],
)
def test_every_pair_of_codes_is_what_rational_numbers_give(
    operation: Callable[..., Tensor], formula: Callable[[Fraction, Fraction], Fraction]
) -> None:
    a, b = torch.arange(256, dtype=torch.uint8)[::5, None], torch.arange(0, 256, 3).to(torch.uint8)
    got = operation(a, A, b, B, U8)
    assert got.dtype == torch.uint8
    assert got.shape == (a.numel(), b.numel())
    for i, j in ((i, j) for i in range(0, a.numel(), 4) for j in range(b.numel())):
        x = (int(a[i]) - A[1]) * Fraction(A[0])
        y = (int(b[j]) - B[1]) * Fraction(B[0])
        assert int(got[i, j]) == rounded(formula(x, y), *U8, 0, 255), (i, j)


@pytest.mark.parametrize(
    ("plain", "twin"),
    [(ops.add, ops.add_relu), (ops.mul, ops.mul_relu), (ops.cat, ops.cat_relu)],
)
def test_twins_rectify(plain: Callable[..., Tensor], twin: Callable[..., Tensor]) -> None:
    a, b = codes(3, 4), codes(3, 4, seed=1)
    operands: tuple[Any, ...] = ([a, b], [A, B]) if plain is ops.cat else (a, A, b, B)
    assert torch.equal(twin(*operands, U8), plain(*operands, U8).clamp(min=U8[1]))
    assert torch.equal(twin(*operands), plain(*operands).relu())
    assert twin.__name__ == f"{plain.__name__}_relu"
    assert plain.__name__ in str(twin.__doc__)


def test_joined_codes_with_the_steps_of_the_result_stay() -> None:
    a, b = codes(2, 3), codes(4, 3, seed=1)
    got = ops.cat([a, b], [A, B], A)
    assert torch.equal(got[:2], a)
    assert torch.equal(got[2:], ops.requantize(b, B, A))


def test_sums_are_wider_than_any_accumulator_of_integers() -> None:
    """70,000 products of the largest codes are more than an int32 holds."""
    x = torch.full((1, 70_000), 255, dtype=torch.uint8)
    w = torch.full((2, 70_000), -128, dtype=torch.int8)
    exact = -70_000 * 255 * 128
    assert exact < -(2**31)
    y = ops.linear(x, (1.0, 0), w, (1.0, 0))
    assert y.tolist() == [[exact, exact]]


@pytest.mark.parametrize("scales", ["one", "each channel", "groups"])
def test_layers_are_exact_sums_of_products(scales: str) -> None:
    x, w = codes(5, 8), codes(3, 8, seed=2, dtype=torch.int8)
    bias = torch.tensor([0.5, -1.0, 2.0])
    steps = torch.tensor([0.5, 0.25, 2.0])
    groups = torch.tensor([[0.5, 0.25], [1.0, 2.0], [0.125, 4.0]])
    params: Any = {
        "one": (0.5, 3),
        "each channel": (steps, torch.tensor([1, -2, 0])),
        "groups": QParams(groups, torch.zeros(3, 2).int(), torch.int8, -128, 127, 0, 4),
    }[scales]
    step = {"one": 0.5, "each channel": steps[:, None], "groups": groups.repeat_interleave(4, 1)}
    zero = {"one": 3, "each channel": torch.tensor([[1], [-2], [0]]), "groups": 0}
    weights = (w.long() - zero[scales]) * step[scales]
    expected = (x.long() - A[1]).double() * A[0] @ weights.double().T + bias
    assert torch.equal(ops.linear(x, A, w, params, None, bias), expected.float())
    got = ops.linear(x, A, w, params, (4.0, 60), bias)
    assert torch.equal(got, ops.quantize(expected, 4.0, 60))
    assert torch.equal(ops.linear_relu(x, A, w, params, (4.0, 60), bias), got.clamp(min=60))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions(dims: int) -> None:
    x, w = codes(2, 4, *[5] * dims), codes(6, 2, *[3] * dims, seed=1, dtype=torch.int8)
    steps, zeros = torch.arange(1, 7) / 8, torch.arange(6)  # sums that float64 holds
    floats = ops.dequantize(x, *A).double(), ops.dequantize(w, steps, zeros, axis=0).double()
    options = {"stride": 2, "padding": 1, "groups": 2}
    expected = getattr(F, f"conv{dims}d")(*floats, **options)
    operation, rectified = (getattr(ops, f"conv{dims}d{twin}") for twin in ("", "_relu"))
    assert torch.equal(operation(x, A, w, (steps, zeros), **options), expected.float())
    got = operation(x, A, w, (steps, zeros), (9.0, 99), **options)
    assert torch.equal(got, ops.quantize(expected, 9.0, 99))
    assert torch.equal(rectified(x, A, w, (steps, zeros), (9.0, 99), **options), got.clamp(min=99))
    turned = codes(4, 3, *[2] * dims, seed=3, dtype=torch.int8)
    pair = (steps[:3], zeros[:3])
    floats = floats[0], ops.dequantize(turned, *pair, axis=1).double()
    expected = getattr(F, f"conv_transpose{dims}d")(*floats, stride=2)
    back = getattr(ops, f"conv_transpose{dims}d")(x, A, turned, pair, stride=2)
    assert torch.equal(back, expected.float())


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_pools_keep_the_steps_of_their_input(dims: int) -> None:
    x = codes(2, 3, *[6] * dims)
    floats = ops.dequantize(x, *A)
    largest = getattr(ops, f"max_pool{dims}d")(x, A, 3, 2, 1)
    expected = getattr(F, f"max_pool{dims}d")(floats, 3, 2, 1)
    assert torch.equal(ops.dequantize(largest, *A), expected)
    for name, argument in (("avg_pool", 2), ("adaptive_avg_pool", 3)):
        means = getattr(ops, f"{name}{dims}d")(x, A, argument)
        expected = getattr(F, f"{name}{dims}d")(floats.double(), argument)
        assert torch.equal(means, ops.quantize(expected, *A))
    assert torch.equal(ops.mean(x, A, 1), ops.quantize(floats.double().mean(1), *A))


def test_activations_are_those_of_the_numbers() -> None:
    x, floats = torch.arange(256, dtype=torch.uint8), torch.arange(-128, 128) / 16.0
    p = (1 / 16, 128)
    assert torch.equal(ops.dequantize(ops.relu6(x, p), *p), floats.clamp(0, 6))
    assert torch.equal(ops.dequantize(ops.clamp(x, p, max=2.0), *p), floats.clamp(max=2))
    for name in ("sigmoid", "tanh", "gelu", "hardswish", "elu", "leaky_relu", "softmax"):
        function = getattr(torch, name, None) or getattr(F, name)
        options = {"dim": -1} if name == "softmax" else {}
        expected = function(floats.double(), **options)
        assert torch.equal(getattr(ops, name)(x, p), expected.float()), name
        assert torch.equal(getattr(ops, name)(x, p, B), ops.quantize(expected, *B)), name


def test_dynamic_layers_measure_their_input() -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    w, pair = codes(3, 8, dtype=torch.int8), (0.1, 0)
    measured, params = ops.quantize_dynamic(x)
    assert (measured.min(), measured.max()) == (0, 255)
    assert torch.equal(ops.linear_dynamic(x, w, pair), ops.linear(measured, params, w, pair))
    rows = ops.embedding(torch.tensor([[2, 0]]), w, (torch.tensor([0.5, 1.0, 2.0]), torch.zeros(3)))
    assert torch.equal(rows, torch.stack([w[2] * 2.0, w[0] * 0.5])[None])


def test_empty_tensors_give_empty_tensors() -> None:
    empty, w = codes(0, 8), codes(3, 8, dtype=torch.int8)
    assert ops.add(empty, A, empty, B, U8).shape == (0, 8)
    assert ops.linear(empty, A, w, (0.1, 0), U8).shape == (0, 3)
    assert ops.quantize_dynamic(torch.empty(0, 2))[0].shape == (0, 2)


def test_other_dtypes_and_bounds() -> None:
    a, b = codes(9, dtype=torch.int16), codes(9, dtype=torch.int8, seed=1)
    assert ops.add(a, (0.5, 0), b, (0.5, 0), (0.5, 0)).dtype == torch.int16
    seven = QParams(0.5, 64, torch.uint8, 0, 127)
    got = ops.mul(a, (0.5, 0), b, (0.5, 0), seven)
    assert got.dtype == torch.uint8
    assert got.max() == 127


PER_CHANNEL = QParams(
    torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 1, 2], dtype=torch.int32), torch.int8, -8, 7, 1
)


def test_qparams_go_where_scale_and_zero_point_do() -> None:
    """What a function of qfx.ops yields or takes, every other takes."""
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    codes, measured = ops.quantize_dynamic(x)
    pair = (measured.scale, measured.zero_point)
    for given in (measured, pair):
        assert torch.equal(ops.quantize(x, given), codes)
        assert torch.equal(ops.dequantize(codes, given), ops.dequantize(codes, *pair))
        assert torch.equal(ops.relu(codes, given), ops.relu(codes, measured))
    scale, zero = PER_CHANNEL.scale, PER_CHANNEL.zero_point
    narrow = ops.quantize(x, scale, zero, dtype=torch.int8, quant_min=-8, quant_max=7, axis=1)
    assert torch.equal(ops.quantize(x, PER_CHANNEL), narrow)
    assert torch.equal(ops.quantize_per_channel(x, PER_CHANNEL), narrow)
    assert torch.equal(
        ops.dequantize(narrow, PER_CHANNEL), ops.dequantize(narrow, scale, zero, axis=1)
    )
    wide = ops.quantize_per_channel(x, (scale, zero), axis=1)
    assert torch.equal(wide, ops.quantize_per_channel(x, scale, zero, 1))


MISTAKES = {
    "floats": (lambda: ops.add(torch.ones(2), A, codes(2), B, U8), "a holds torch.float32"),
    "no tensor": (lambda: ops.add(codes(2), A, 3, B, U8), "b must be an integer tensor"),
    "no pair": (
        lambda: ops.mul(codes(2), 0.1, codes(2), B, U8),
        "of a must be qfx.QParams",
    ),
    "dtypes": (
        lambda: ops.relu(codes(2), QParams(1.0, 0, torch.int8, -128, 127)),
        "input holds torch.uint8, but its qparams are those of torch.int8",
    ),
    "zero point": (lambda: ops.relu(codes(2), (0.1, 256)), "zero_point 256 is outside"),
    "scale": (lambda: ops.add(codes(2), A, codes(2), B, (0.0, 0)), "scale must be a positive"),
    "half a step": (lambda: ops.relu(codes(2), (0.1, 120.5)), "must be an integer, not 120.5"),
    "twice": (lambda: ops.quantize(codes(2), 0.1, 120), "input holds torch.uint8"),
    "negative": (lambda: ops.quantize(torch.ones(2), -0.1, 120), "scale must be a positive"),
    "swapped": (lambda: ops.quantize(torch.ones(2), 120, 0.03), "must be an integer, not 0.03"),
    "range": (lambda: ops.dequantize(codes(2), 0.1, 300), "zero_point 300 is outside"),
    "list": (lambda: ops.quantize([1.0], 0.1, 0), "input must be a float tensor, not list"),
    "text": (lambda: ops.quantize(torch.ones(2), "0.1", 0), "must be a number or a tensor"),
    "no codes": (lambda: ops.dequantize(torch.ones(2), 0.1, 0), "holds torch.float32"),
    "dynamic": (lambda: ops.quantize_dynamic(codes(2)), "input holds torch.uint8"),
    "float dtype": (
        lambda: ops.quantize(torch.ones(2), 0.1, 0, dtype=torch.float32),
        "dtype=torch.float32 holds no codes",
    ),
    "quantized dtype": (
        lambda: ops.quantize_per_channel(
            torch.ones(2, 2), torch.ones(2), torch.zeros(2), 0, dtype=torch.qint8
        ),
        "dtype=torch.qint8 holds no codes; choose one of torch.uint8",
    ),
    "axis": (
        lambda: ops.quantize(torch.ones(2, 3), torch.ones(2), torch.zeros(2), axis=5),
        "axis=5 is no dim",
    ),
    "no axis": (lambda: ops.quantize(torch.ones(2, 3), torch.ones(2), 0), "give axis="),
    "scales": (
        lambda: ops.quantize(torch.ones(2, 3), torch.ones(2), torch.zeros(2), axis=1),
        "2 scales do not fit the 3 channels along axis=1",
    ),
    "order": (
        lambda: ops.linear(codes(2, 3), codes(2, 3), A, A),
        r"qparams of input must be qfx.QParams or \(scale, zero_point\), not a tensor of shape",
    ),
    "nothing beside": (
        lambda: ops.quantize(torch.ones(2), QParams(1.0, 0, torch.int8, -128, 127), 0),
        "give none of these beside them",
    ),
    "another dtype": (
        lambda: ops.dequantize(codes(2), QParams(1.0, 0, torch.int8, -128, 127)),
        "input holds torch.uint8, but its qparams are those of torch.int8",
    ),
    "no zero point": (lambda: ops.dequantize(codes(2), 0.1), "zero_point is missing"),
    "two zero points": (lambda: ops.quantize(torch.ones(2), A, 3), "given twice"),
    "of a tensor": (
        lambda: ops.quantize_per_channel(torch.ones(2), QParams(1.0, 0, torch.int8, -128, 127)),
        "those of a tensor, not of its channels",
    ),
    "no such axis": (
        lambda: ops.quantize(torch.ones(2), PER_CHANNEL),
        "axis=1 is no dim",
    ),
    "channels of qparams": (
        lambda: ops.quantize(torch.ones(2, 4), PER_CHANNEL),
        "3 scales do not fit the 4 channels along axis=1",
    ),
    "channels of a weight": (
        lambda: ops.linear(codes(2, 3), A, codes(4, 3), (torch.ones(3), 0)),
        "3 scales do not fit the 4 channels along axis=0",
    ),
    "qparams": (lambda: ops.cat([codes(2)], []), "1 tensors and 0 qparams"),
    "no list": (lambda: ops.cat(codes(2, 2), [A, A]), "tensors is one tensor; give a list"),
    "channels": (
        lambda: ops.quantize_per_channel(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2, 1), 0),
        r"give \(C,\) per channel",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    call, message = MISTAKES[name]
    with pytest.raises(qfx.ConfigError, match=message):
        call()


@pytest.mark.parametrize("scale", [2.0**-128, 2.0**-149])
def test_a_scale_without_a_reciprocal_is_refused(scale: float) -> None:
    """It was PyTorch's own error, and per channel code 0 for what is 0.0."""
    x = torch.tensor([[-1.0, 0.0, 2.0]])
    said = r"a scale of .* is too small to quantize with"
    with pytest.raises(qfx.ConfigError, match=said):
        ops.quantize(x, scale, 3)
    with pytest.raises(qfx.ConfigError, match=said):
        ops.quantize_per_channel(x, torch.tensor([scale]), torch.tensor([3]), axis=0)
    codes = torch.tensor([1, 2], dtype=torch.uint8)
    with pytest.raises(qfx.ConfigError, match=said):
        ops.add(codes, (1.0, 0), codes, (1.0, 0), (scale, 0))


def test_the_smallest_scale_with_one() -> None:
    scale = 2.0**-127
    codes = ops.quantize(torch.tensor([0.0, scale, -1.0, 1.0]), scale, 3)
    assert codes.tolist() == [3, 4, 0, 255]
