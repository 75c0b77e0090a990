"""Affine arithmetic: rounding, exactness, agreement with torch's own quantized tensors."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qfx.quant.qparams import float32
from qfx.semantics import affine as ops

FMA = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32)
scales = st.floats(1e-6, 1e4).map(float32)


def quietly(make: Callable[[], Tensor]) -> Tensor:
    """PyTorch warns that its quantized dtypes will go away."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def values(seed: int, *shape: int, ties: bool = False) -> Tensor:
    """In units of a step: normal, or halfway between codes."""
    generator = torch.Generator().manual_seed(seed)
    if ties:
        return torch.randint(-300, 300, shape, generator=generator) + 0.5
    return torch.randn(*shape, generator=generator) * 150


@cache
def torch_adds_first() -> bool:
    """Whether PyTorch, too, adds the zero point before it rounds: up to 2.13 it did."""
    half = torch.full((1,), 0.5)
    return quietly(lambda: torch.quantize_per_tensor(half, 1.0, 1, torch.quint8).int_repr()) == 2


def assert_equals_torch(ours: Tensor, theirs: Tensor, units: Tensor) -> None:
    """Bit for bit; where PyTorch rounds before it adds the zero point, a step apart at ties.

    Args:
        ours, theirs: codes.
        units: what they round: values over their scale.
    """
    differ = ours != theirs
    assert not (torch_adds_first() and differ.any())
    assert ((ours.int() - theirs.int()).abs() <= 1).all()
    from_tie = ((units - units.floor()) - 0.5).abs()
    assert (from_tie[differ] <= 1e-6 * units.abs()[differ]).all()


@pytest.mark.skipif(not FMA, reason="without fused multiply-add the product is rounded first")
@pytest.mark.parametrize("ties", [False, True])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), scale=scales, zero=st.integers(0, 255))
def test_equals_torch_per_tensor(ties: bool, seed: int, scale: float, zero: int) -> None:
    x = values(seed, 3001, ties=ties) * scale
    unsigned = quietly(lambda: torch.quantize_per_tensor(x, scale, zero, torch.quint8).int_repr())
    signed = quietly(
        lambda: torch.quantize_per_tensor(x, scale, zero - 128, torch.qint8).int_repr()
    )
    units = x / scale
    assert_equals_torch(ops.quantize(x, scale, zero), unsigned, units)
    assert_equals_torch(ops.quantize(x, scale, zero - 128, dtype=torch.int8), signed, units)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("ties", [False, True])
def test_equals_torch_per_channel(axis: int, ties: bool) -> None:
    x = values(axis, 12, 13, 14, ties=ties)
    channels = x.shape[axis]
    scale = torch.rand(channels, generator=torch.Generator().manual_seed(0)) + 0.01
    zero = torch.arange(channels, dtype=torch.int64) - 5
    expected = quietly(
        lambda: torch.quantize_per_channel(x, scale, zero, axis, torch.qint8).int_repr()
    )
    shape = [-1 if dim == axis else 1 for dim in range(3)]
    units = x / scale.reshape(shape)
    assert_equals_torch(ops.quantize(x, scale, zero, dtype=torch.int8, axis=axis), expected, units)


def test_dequantize_equals_torch() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    for scale in (0.1, 1e-5, 3.7):
        expected = quietly(
            lambda scale=scale: torch._make_per_tensor_quantized_tensor(
                codes, scale, 77
            ).dequantize()
        )
        assert torch.equal(ops.dequantize(codes, float32(scale), 77), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40, deadline=None)
@given(data=st.data(), scale=st.floats(2.0**-20, 2.0**10).map(float32))
def test_codes_survive_a_round_trip(dtype: torch.dtype, data: st.DataObject, scale: float) -> None:
    info = torch.iinfo(dtype)
    code = st.integers(info.min, info.max)
    codes = torch.tensor(data.draw(st.lists(code, min_size=1, max_size=20)), dtype=dtype)
    zero = data.draw(st.integers(max(info.min, -(2**20)), min(info.max, 2**20)))
    wide = torch.float64 if dtype == torch.int32 else torch.float32
    restored = ops.dequantize(codes, scale, zero, dtype=wide)
    assert torch.equal(ops.quantize(restored, scale, zero, dtype=dtype), codes)


@settings(max_examples=60, deadline=None)
@given(
    bounds=st.tuples(st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32)),
    symmetric=st.booleans(),
    seed=st.integers(0, 99),
)
def test_error_is_at_most_half_a_step(
    bounds: tuple[float, float], symmetric: bool, seed: int
) -> None:
    low, high = map(torch.tensor, sorted(bounds))
    scale, zero = ops.choose_qparams(low, high, quant_min=-128, quant_max=127, symmetric=symmetric)
    x = low + (high - low) * torch.rand(100, generator=torch.Generator().manual_seed(seed))
    codes = ops.quantize(x, float(scale), int(zero), dtype=torch.int8)
    restored = ops.dequantize(codes, float(scale), int(zero))
    # Rounding the zero point shifts the affine range by up to half a step more than it covers.
    allowed = float(scale) * (0.5 if symmetric else 1.0) * (1 + 1e-4)
    assert float((restored - x).abs().max()) <= allowed


@settings(max_examples=60, deadline=None)
@given(
    low=st.floats(-(2.0**100), 2.0**100, width=32),
    high=st.floats(-(2.0**100), 2.0**100, width=32),
    symmetric=st.booleans(),
    bounds=st.sampled_from([(0, 255), (0, 127), (-128, 127), (-127, 127), (-8, 7)]),
)
def test_zero_is_exact_and_the_range_is_covered(
    low: float, high: float, symmetric: bool, bounds: tuple[int, int]
) -> None:
    low, high = sorted((low, high))
    quant_min, quant_max = bounds
    chosen = ops.choose_qparams(
        torch.tensor(low),
        torch.tensor(high),
        quant_min=quant_min,
        quant_max=quant_max,
        symmetric=symmetric,
    )
    scale, zero = float(chosen[0]), int(chosen[1])
    assert quant_min <= zero <= quant_max
    assert scale > 0
    assert float32(scale) == scale
    dtype = torch.uint8 if quant_min == 0 else torch.int8
    code = ops.quantize(
        torch.zeros(3), scale, zero, dtype=dtype, quant_min=quant_min, quant_max=quant_max
    )
    assert torch.equal(ops.dequantize(code, scale, zero), torch.zeros(3))
    slack = scale * (1 + 1e-5)
    assert (quant_max - zero) * scale + slack >= max(high, 0)
    assert (quant_min - zero) * scale - slack <= min(low, 0)


@pytest.mark.parametrize(
    ("low", "high", "symmetric", "scale", "zero"),
    [
        (-1.0, 1.0, False, 2 / 255, 127),  # 127.4999: the float32 scale is rounded up
        (0.0, 6.0, False, 6 / 255, 0),  # one-sided
        (2.0, 6.0, False, 6 / 255, 0),  # widened to hold 0
        (-6.0, -2.0, False, 6 / 255, 255),
        (0.0, 0.0, False, 1.0, 0),  # every scale is exact
        (-1.0, 0.5, True, 1 / 127.5, 128),
        (0.0, 0.0, True, 1.0, 128),
    ],
)
def test_chosen_qparams(low: float, high: float, symmetric: bool, scale: float, zero: int) -> None:
    chosen = ops.choose_qparams(
        torch.tensor(low), torch.tensor(high), quant_min=0, quant_max=255, symmetric=symmetric
    )
    assert (float(chosen[0]), int(chosen[1])) == (float32(scale), zero)


@settings(max_examples=60, deadline=None)
@given(
    middle=st.floats(-1e4, 1e4, width=32),
    reach=st.one_of(st.just(0.0), st.floats(2.0**-20, 100, width=32)),
    bounds=st.sampled_from([(0, 255), (-128, 127), (0, 15), (-8, 7)]),
)
def test_an_offset_needs_no_zero(middle: float, reach: float, bounds: tuple[int, int]) -> None:
    low, high = torch.tensor([middle - reach]), torch.tensor([middle + reach])
    quant_min, quant_max = bounds
    scale, zero = ops.choose_qparams(
        low, high, quant_min=quant_min, quant_max=quant_max, offset=True
    )
    x = torch.lerp(low, high, torch.linspace(0, 1, 50))
    codes = ops.quantize(
        x, scale, zero, quant_min=quant_min, quant_max=quant_max, axis=0,
        dtype=torch.uint8 if quant_min == 0 else torch.int8,
    )  # fmt: skip
    restored = ops.dequantize(codes, scale, zero)
    again = ops.quantize(
        restored, scale, zero, quant_min=quant_min, quant_max=quant_max, axis=0, dtype=codes.dtype
    )
    assert torch.equal(again, codes)
    step = 2 * reach / (quant_max - quant_min)
    rounded = max(abs(middle) + reach, 1.0) * (2.0**-11 if quant_max - quant_min < 16 else 2.0**-21)
    assert float((restored - x).abs().max()) <= 0.51 * step + rounded


def test_reduced_range_uses_half_the_codes() -> None:
    scale, zero = ops.choose_qparams(
        torch.tensor(-1.0), torch.tensor(1.0), quant_min=0, quant_max=127
    )
    assert (float(scale), int(zero)) == (float32(2 / 127), 64)


@settings(max_examples=60, deadline=None)
@given(
    low=st.floats(-(2.0**100), 2.0**100, width=32),
    high=st.floats(-(2.0**100), 2.0**100, width=32),
    symmetric=st.booleans(),
)
def test_powers_of_two_are_the_next_above(low: float, high: float, symmetric: bool) -> None:
    choose = partial(
        ops.choose_qparams,
        *(torch.tensor(v) for v in sorted((low, high))),
        quant_min=-128,
        quant_max=127,
        symmetric=symmetric,
    )
    (plain, _), (scale, zero) = choose(), choose(power_of_two=True)
    assert math.frexp(float(scale))[0] == 0.5
    assert float(plain) <= float(scale) < 2 * float(plain)
    assert -128 <= int(zero) <= 127
    assert ops.next_power_of_two(float(plain)) == float(scale)


@pytest.mark.parametrize("exponent", [-149, -126, -60, -1, 0, 1, 127])
def test_a_power_of_two_stays(exponent: int) -> None:
    scale = math.ldexp(1.0, exponent)
    assert ops.next_power_of_two(scale) == scale
    assert ops.next_power_of_two(scale * 0.75) == scale
    assert float(ops._next_power_of_two(torch.tensor(scale))) == scale


def test_power_of_two_per_channel_and_at_run_time() -> None:
    high = torch.tensor([127.0, 0.0, 100.0])
    scale, _ = ops.choose_qparams(
        -high, high, quant_min=-127, quant_max=127, symmetric=True, power_of_two=True
    )
    assert scale.tolist() == [1.0, 1.0, 1.0]
    measured, zero = ops.dynamic_qparams(torch.tensor([-1.0, 2.0]), power_of_two=True)
    assert (float(measured), int(zero)) == (2**-6, 64)


def test_dead_channel_takes_the_scale_of_a_live_one() -> None:
    high = torch.tensor([127.0, 0.0, 254.0])
    scale, zero = ops.choose_qparams(-high, high, quant_min=-127, quant_max=127, symmetric=True)
    assert scale.tolist() == [1.0, 2.0, 2.0]
    assert zero.tolist() == [0, 0, 0]


def test_tiny_values_keep_their_resolution() -> None:
    x = torch.linspace(-1e-9, 1e-9, 101)
    scale, zero = ops.dynamic_qparams(x)
    restored = ops.dequantize(ops.quantize(x, scale, zero), scale, zero)
    assert float((restored - x).abs().max()) <= float(scale)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_memory_format_is_kept(memory_format: torch.memory_format, axis: int | None) -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=memory_format)
    scale: Tensor | float = 0.1 if axis is None else torch.full((x.shape[axis],), 0.1)
    zero: Tensor | int = 3 if axis is None else torch.full((x.shape[axis],), 3)
    codes = ops.quantize(x, scale, zero, axis=axis)
    assert codes.is_contiguous(memory_format=memory_format)
    restored = ops.dequantize(codes, scale, zero, axis=axis)
    assert restored.is_contiguous(memory_format=memory_format)


def test_arguments_are_not_touched() -> None:
    x = torch.randn(10)
    before = x.clone()
    codes = ops.quantize(x, 0.1, 0)
    kept = codes.clone()
    ops.dequantize(codes, 0.1, 0)
    ops.fake_quantize(x, 0.1, 0, quant_min=0, quant_max=255)
    assert torch.equal(x, before)
    assert torch.equal(codes, kept)


def test_values_beyond_the_range_saturate() -> None:
    x = torch.tensor([1e30, -1e30, float("inf"), -float("inf"), 0.0])
    assert ops.quantize(x, 0.02, 3).tolist() == [255, 0, 255, 0, 3]
    wide = ops.quantize(x, 0.02, 3, dtype=torch.int32)
    assert wide.tolist() == [2**31 - 1, -(2**31), 2**31 - 1, -(2**31), 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_dtypes(dtype: torch.dtype) -> None:
    x = torch.linspace(-1, 1, 33).to(dtype)
    codes = ops.quantize(x, 2 / 255, 128)
    assert torch.equal(codes, ops.quantize(x.float(), 2 / 255, 128))
    assert ops.dequantize(codes, 2 / 255, 128, dtype=dtype).dtype == dtype


def test_tensor_and_number_arguments_agree() -> None:
    x = values(3, 999) * 0.031
    tensors = ops.quantize(x, torch.tensor(0.031), torch.tensor(77, dtype=torch.int32))
    assert torch.equal(tensors, ops.quantize(x, float32(0.031), 77))


def test_groups_are_quantized_apart() -> None:
    weight = torch.tensor([[1.0, 2.0, 100.0, 200.0], [3.0, 3.0, 0.5, 0.25]])
    scale = torch.tensor([[0.1, 10.0], [0.3, 0.05]])
    zero = torch.zeros(2, 2, dtype=torch.int32)
    codes = ops.quantize(weight, scale, zero, dtype=torch.int8, axis=0, group_size=2)
    assert codes.tolist() == [[10, 20, 10, 20], [10, 10, 10, 5]]
    restored = ops.dequantize(codes, scale, zero, axis=0, group_size=2)
    torch.testing.assert_close(restored, weight)


def test_groups_along_another_axis() -> None:
    weight = torch.randn(6, 4, 3)
    scale, zero = torch.rand(4, 9) + 0.1, torch.zeros(4, 9, dtype=torch.int32)
    swapped = ops.quantize(
        weight.transpose(0, 1), scale, zero, dtype=torch.int8, axis=0, group_size=2
    )
    codes = ops.quantize(weight, scale, zero, dtype=torch.int8, axis=1, group_size=2)
    assert torch.equal(codes.transpose(0, 1), swapped)


def test_fake_quantize_is_quantize_then_dequantize() -> None:
    for x, scale, zero, axis in (
        (values(1, 500) * 0.02, 0.02, 7, None),
        (values(2, 500, ties=True) * 0.02, 0.02, 7, None),
        (values(3, 5, 40), torch.rand(5) + 0.1, torch.arange(5), 0),
    ):
        codes = ops.quantize(x, scale, zero, dtype=torch.int8, axis=axis)
        faked = ops.fake_quantize(x, scale, zero, quant_min=-128, quant_max=127, axis=axis)
        assert torch.equal(faked, ops.dequantize(codes, scale, zero, axis=axis))


def test_fake_quantize_passes_gradients_within_bounds() -> None:
    x = torch.tensor([-100.0, -1.0, 0.0, 5.3, 100.0], requires_grad=True)
    faked = ops.fake_quantize(x, 0.5, 0, quant_min=-20, quant_max=20)
    (faked * torch.arange(1.0, 6.0)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]


def test_empty_tensors() -> None:
    x = torch.zeros(0, 3)
    assert ops.quantize(x, 0.1, 0).shape == (0, 3)
    scale, zero = ops.dynamic_qparams(x)
    assert (float(scale), int(zero)) == (1.0, 0)


def test_traces_under_export() -> None:
    class Roundtrip(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ops.dequantize(ops.quantize(x, 0.1, 5), 0.1, 5)

    x = torch.randn(4, 4)
    exported = torch.export.export(Roundtrip(), (x,)).module()
    assert torch.equal(exported(x), Roundtrip()(x))
