"""QParams: validation, equality, the ways to make them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qfx.errors import CalibrationError, ConfigError
from qfx.quant.qparams import QParams, choose_qparams, float32, quantize_weight
from qfx.quant.spec import QuantSpec
from qfx.semantics import affine as ops

PER_CHANNEL = QuantSpec(torch.int8, symmetric=True, per_channel=True, quant_min=-127)


def per_channel(scale: Tensor, zero: Tensor, axis: int | None = 0) -> QParams:
    return QParams(scale, zero, torch.int8, -128, 127, axis)


def test_scale_is_rounded_to_float32() -> None:
    qparams = QParams(0.1, 3, torch.uint8, 0, 255)
    assert qparams.scale == float32(0.1) != 0.1
    assert QParams(qparams.scale, 3, torch.uint8, 0, 255) == qparams


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 0, torch.uint8, 0, 255), "scale must be a positive"),
        ((float("nan"), 0, torch.uint8, 0, 255), "scale must be a positive"),
        ((1e50, 0, torch.uint8, 0, 255), "scale must be a positive"),
        ((0.1, 256, torch.uint8, 0, 255), "zero_point 256 is outside"),
        ((0.1, 0, torch.uint8, 0, 256), "no range within torch.uint8"),
        ((0.1, 0, torch.uint8, 9, 9), "no range within torch.uint8"),
        ((0.1, 0, torch.uint8, 0, 255, 1), "need tensors of one scale per channel"),
        ((torch.ones(2), 0, torch.int8, -128, 127, 0), "both be tensors"),
    ],
)
def test_refuses(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QParams(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scale", "zero", "message"),
    [
        (torch.ones(3), torch.zeros(2, dtype=torch.int32), "do not fit"),
        (torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.int32), "do not fit"),
        (torch.tensor([1.0, 0.0]), torch.zeros(2, dtype=torch.int32), "positive and finite"),
        (torch.ones(2), torch.tensor([0, 200]), "outside the bounds"),
        (torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.int32), "float32"),
    ],
)
def test_refuses_tensors(scale: Tensor, zero: Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        per_channel(scale, zero)


def test_equality_compares_contents() -> None:
    zero = torch.zeros(2, dtype=torch.int32)
    one = per_channel(torch.tensor([1.0, 2.0]), zero)
    assert one == per_channel(torch.tensor([1.0, 2.0]), zero.clone())
    assert hash(one) == hash(per_channel(torch.tensor([1.0, 3.0]), zero))
    assert one != per_channel(torch.tensor([1.0, 3.0]), zero)
    assert one != QParams(1.0, 0, torch.int8, -128, 127)


def test_text() -> None:
    assert str(QParams(0.5, 3, torch.uint8, 0, 127)) == "uint8[0..127] scale=0.5 zero_point=3"
    zero = torch.zeros(2, dtype=torch.int32)
    assert str(per_channel(torch.ones(2), zero)) == "int8[-128..127] axis=0 scales[2]"


def test_per_tensor_choice_yields_numbers() -> None:
    qparams = choose_qparams(torch.tensor(-1.0), 1.0, QuantSpec(torch.uint8))
    assert isinstance(qparams.scale, float)
    assert isinstance(qparams.zero_point, int)
    assert qparams == QParams(2 / 255, 127, torch.uint8, 0, 255)


def test_weight_per_channel() -> None:
    weight = torch.tensor([[1.0, -2.0], [0.1, 0.2], [0.0, 0.0]])
    integers, qparams = quantize_weight(weight, PER_CHANNEL)
    assert integers.dtype == torch.int8
    assert integers.tolist() == [[64, -127], [64, 127], [0, 0]]
    assert isinstance(qparams.scale, Tensor)
    assert qparams.scale.shape == (3,)
    assert qparams.axis == 0
    torch.testing.assert_close(qparams.dequantize(integers), weight, atol=0.01, rtol=0)


def test_weight_along_another_axis() -> None:
    weight = torch.randn(3, 5, 2, 2)
    spec = QuantSpec(torch.int8, symmetric=True, per_channel=True, axis=1)
    integers, qparams = quantize_weight(weight, spec)
    swapped, _ = quantize_weight(
        weight.transpose(0, 1), QuantSpec(torch.int8, symmetric=True, per_channel=True)
    )
    assert torch.equal(integers.transpose(0, 1), swapped)
    assert qparams.axis == 1


def test_weight_in_groups() -> None:
    weight = torch.randn(4, 32)
    spec = QuantSpec(
        torch.int8, symmetric=True, per_channel=True, group_size=8, quant_min=-8, quant_max=7
    )
    integers, qparams = quantize_weight(weight, spec)
    assert isinstance(qparams.scale, Tensor)
    assert qparams.scale.shape == (4, 4)
    assert int(integers.min()) >= -8
    error = (qparams.dequantize(integers) - weight).abs().reshape(4, 4, 8).amax(-1)
    assert bool((error <= qparams.scale * 0.5001).all())


def test_weight_that_requires_grad() -> None:
    weight = torch.randn(2, 3, requires_grad=True)
    integers, _ = quantize_weight(weight, PER_CHANNEL)
    assert not integers.requires_grad


@pytest.mark.parametrize(
    ("weight", "spec", "error", "message"),
    [
        (torch.tensor([[1.0, float("nan")]]), PER_CHANNEL, CalibrationError, "1 NaN"),
        (torch.zeros(0, 3), PER_CHANNEL, CalibrationError, "no data"),
        (torch.ones(3), QuantSpec(torch.int8, per_channel=True, axis=2), ConfigError, "axis=2"),
        (
            torch.ones(2, 5),
            QuantSpec(torch.int8, per_channel=True, group_size=4),
            ConfigError,
            "does not divide",
        ),
    ],
)
def test_weights_that_cannot_be_quantized(
    weight: Tensor, spec: QuantSpec, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        quantize_weight(weight, spec)


@pytest.mark.sweep
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("bounds", [(0, 255), (0, 127), (-128, 127), (-127, 127), (-8, 7)])
def test_one_range_gets_what_the_tensor_arithmetic_gives(
    symmetric: bool, power_of_two: bool, bounds: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    size = 10.0 ** torch.randint(-22, 30, (2, 200), generator=generator)
    low, high = torch.randn(2, 200, generator=generator) * size
    low[:10], high[5:15] = 0.0, 0.0
    dtype = torch.uint8 if bounds[0] == 0 else torch.int8
    spec = QuantSpec(
        dtype,
        symmetric=symmetric,
        quant_min=bounds[0],
        quant_max=bounds[1],
        power_of_two=power_of_two,
    )
    for a, b in zip(low, high, strict=True):
        scale, zero_point = ops.choose_qparams(
            a,
            b,
            quant_min=bounds[0],
            quant_max=bounds[1],
            symmetric=symmetric,
            power_of_two=power_of_two,
        )
        found = choose_qparams(a, b, spec)
        assert (found.scale, found.zero_point) == (scale.item(), zero_point.item())
        assert choose_qparams(a.item(), b.item(), spec) == found
