"""The integer kernels against exact arithmetic, beyond the small inputs of the probes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qfx import ops
from qfx.backends import saturation
from qfx.backends.onednn import kernels, packing
from qfx.backends.onednn import saturation as onednn_saturation

ZERO = torch.zeros(1, dtype=torch.int32)
SCALES = (0.0187, 0.25, 1.0 / 3)


def codes(*shape: int, seed: int = 0, highest: int = 255) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, highest + 1, shape, dtype=torch.uint8, generator=generator)


def activations(*shape: int) -> Tensor:
    """Codes that layers with weights add up exactly on this machine: 7 bits, or 8 of them."""
    safe = saturation.HIGHEST_SAFE if onednn_saturation.saturates() else 255
    return codes(*shape, highest=safe)


def floats(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def steps_apart(a: Tensor, b: Tensor) -> int:
    return int((a.int() - b.int()).abs().max())


def conv2d(x: Tensor, packed: Tensor, scales: Tensor, x_zero_point: int) -> Tensor:
    geometry = ([1, 1], [1, 1], [1, 1], 1)
    head = (x, 0.02, x_zero_point, packed, scales, ZERO, None, *geometry)
    result: Tensor = torch.ops.onednn.qconv2d_pointwise.default(
        *head, 0.5, 7, torch.uint8, "none", [], ""
    )
    return result


def exact_conv2d(x: Tensor, weight: Tensor, scales: Tensor, x_zero_point: int) -> Tensor:
    sums = F.conv2d(x.double() - x_zero_point, weight.double(), padding=1)
    y = sums * 0.02 * scales.double().reshape(-1, 1, 1)
    return ops.quantize(y, 0.5, 7)


@pytest.mark.parametrize("x_zero_point", [0, 37])
@pytest.mark.parametrize("shape", [(1, 16, 9, 9), (3, 16, 5, 12), (0, 16, 9, 9)])
def test_one_packed_weight_serves_all_shapes(x_zero_point: int, shape: tuple[int, ...]) -> None:
    weight = (codes(24, 16, 3, 3, seed=1).int() - 128).to(torch.int8)
    scales = torch.full((24,), 1e-3)
    arguments = ([1, 1], [1, 1], [1, 1], 1, [1, 16, 9, 9])
    packed = packing.pack_conv(weight, scales, 0.02, x_zero_point, *arguments)
    x = activations(*shape)
    got = conv2d(x, packed, scales, x_zero_point)
    expected = exact_conv2d(x, weight, scales, x_zero_point)
    assert got.shape == expected.shape
    assert torch.equal(got, expected)


def test_memory_format_of_the_input_does_not_change_a_convolution() -> None:
    weight = (codes(8, 16, 3, 3, seed=1).int() - 128).to(torch.int8)
    scales = torch.full((8,), 1e-3)
    packed = packing.pack_conv(weight, scales, 0.02, 9, [1, 1], [1, 1], [1, 1], 1, [1, 16, 9, 9])
    wide = activations(1, 32, 9, 9).contiguous(memory_format=torch.channels_last)
    half = wide.chunk(2, dim=1)[1]
    expected = conv2d(half.contiguous(), packed, scales, 9)
    assert torch.equal(conv2d(half, packed, scales, 9), expected)
    assert torch.equal(conv2d(kernels.channels_last(half), packed, scales, 9), expected)
    assert expected.is_contiguous(memory_format=torch.channels_last)


def test_zero_points_of_both_kinds_pack_the_same_geometry_apart() -> None:
    """The fast path needs it; what shows without a stopwatch is that both stay exact."""
    weight = (codes(16, 16, 3, 3, seed=2).int() - 128).to(torch.int8)
    scales = torch.full((16,), 1e-3)
    x = activations(1, 16, 7, 7)
    arguments = ([1, 1], [1, 1], [1, 1], 1, list(x.shape))
    for x_zero_point in (0, 200, 0, 200):
        packed = packing.pack_conv(weight, scales, 0.02, x_zero_point, *arguments)
        got = conv2d(x, packed, scales, x_zero_point)
        assert torch.equal(got, exact_conv2d(x, weight, scales, x_zero_point))


@pytest.mark.parametrize("shape", [(33,), (1, 33), (2, 3, 33), (0, 33)])
def test_linear_takes_any_rank(shape: tuple[int, ...]) -> None:
    weight = (codes(5, 33, seed=1).int() - 128).to(torch.int8)
    scales, x = torch.full((5,), 1e-3), activations(*shape)
    packed = packing.pack_linear(weight, shape)
    got = torch.ops.onednn.qlinear_pointwise.default(
        x, 0.02, 11, packed, scales, ZERO, None, 0.1, 100, torch.uint8, "none", [], ""
    )
    y = F.linear(x.double() - 11, weight.double()) * 0.02 * 1e-3
    assert got.shape == y.shape
    assert got.numel() == 0 or steps_apart(got, ops.quantize(y, 0.1, 100)) == 0


# -- quantize and dequantize -------------------------------------------------------------------
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("zero_point", [0, 113, 128, 255])
@pytest.mark.parametrize("quant_max", [127, 255])
def test_quantize_equals_the_formula(scale: float, zero_point: int, quant_max: int) -> None:
    x = floats(1000) * 3
    got = kernels.quantize(x, scale, min(zero_point, quant_max), quant_max)
    expected = ops.quantize(x, scale, min(zero_point, quant_max), quant_max=quant_max)
    assert torch.equal(got, expected)


def test_quantize_saturates_even_infinities() -> None:
    x = torch.tensor([-torch.inf, -1e30, 0.0, 1e30, torch.inf])
    assert kernels.quantize(x, 0.1, 7).tolist() == [0, 0, 7, 255, 255]


def test_quantize_is_one_step_off_at_most_on_ties() -> None:
    x = torch.arange(-200, 200) + 0.5
    for zero_point in (100, 101):
        got, expected = kernels.quantize(x, 1.0, zero_point), ops.quantize(x, 1.0, zero_point)
        assert steps_apart(got, expected) <= 1
    assert torch.equal(kernels.quantize(x, 1.0, 100), ops.quantize(x, 1.0, 100))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_quantize_takes_other_float_dtypes(dtype: torch.dtype) -> None:
    x = (floats(64) * 3).to(dtype)
    assert steps_apart(kernels.quantize(x, 0.1, 99), ops.quantize(x.float(), 0.1, 99)) <= 1


def test_quantize_keeps_the_memory_format_and_its_input() -> None:
    x = floats(2, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    assert kernels.quantize(x, 0.1, 7).stride() == x.stride()
    assert torch.equal(x, before)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("quant_max", [127, 255])
def test_quantize_rgbx(memory_format: torch.memory_format, quant_max: int) -> None:
    image = (floats(2, 3, 5, 7) * 9).contiguous(memory_format=memory_format)
    got = kernels.quantize_rgbx(image, 0.1, 37, quant_max)
    assert got.shape == (2, 4, 5, 7)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got[:, :3], kernels.quantize(image, 0.1, 37, quant_max))


@pytest.mark.parametrize("zero_point", [0, 113])
def test_dequantize_is_bit_identical(zero_point: int) -> None:
    q = codes(1000)
    got = kernels.dequantize(q, 0.0187, zero_point)
    assert torch.equal(got, ops.dequantize(q, 0.0187, zero_point))


# -- pools --------------- ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "ceil_mode"),
    [
        ((2, 2), (), (0, 0), (1, 1), False),
        ((3, 3), (2, 2), (1, 1), (1, 1), True),
        ((5, 3), (1, 2), (2, 1), (1, 1), False),
        ((3, 3), (1, 1), (1, 1), (2, 2), False),
    ],
)
@pytest.mark.parametrize("batch", [0, 2])
def test_max_pool2d(
    kernel: tuple[int, int],
    stride: tuple[int, ...],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    ceil_mode: bool,
    batch: int,
) -> None:
    q = codes(batch, 17, 13, 11)
    got = kernels.max_pool2d(q, kernel, stride, padding, dilation, ceil_mode)
    expected = F.max_pool2d(q.double(), kernel, stride or None, padding, dilation, ceil_mode)
    assert torch.equal(got.double(), expected)


def test_max_pool1d() -> None:
    q = codes(2, 5, 31)
    assert torch.equal(kernels.max_pool1d(q, 3, 2, 1).double(), F.max_pool1d(q.double(), 3, 2, 1))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: kernels.quantize(x, 0.1, 7),
        lambda x: kernels.dequantize(kernels.quantize(x, 0.1, 7), 0.1, 7),
        lambda x: kernels.max_pool2d(kernels.quantize(x, 0.1, 7), (2, 2)),
    ],
)
def test_kernels_trace_without_graph_breaks(function: Callable[[Tensor], Tensor]) -> None:
    x = floats(1, 3, 6, 6)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), function(x))
