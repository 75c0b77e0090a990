"""PerChannelMSEObserver: the least error of each channel, whatever the axis, groups and codes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qfx.backends.base import WeightRule
from qfx.backends.fitting import settled_weight
from qfx.quant.observers import MovingAveragePerChannelMinMaxObserver, PerChannelMinMaxObserver
from qfx.quant.qparams import QParams, quantize_weight
from qfx.quant.spec import QuantSpec

G = torch.Generator().manual_seed(0)
WEIGHT = torch.randn(6, 64, generator=G) * torch.tensor([1, 1e-3, 10, 0, 1, 1e-20]).unsqueeze(1)
WEIGHT[4, 0] = 30.0
SPECS = {
    "4 bits": QuantSpec(
        torch.int8,
        symmetric=True,
        per_channel=True,
        observer="per_channel_mse",
        quant_min=-8,
        quant_max=7,
    ),
    "affine": QuantSpec(torch.uint8, per_channel=True, observer="per_channel_mse", quant_max=15),
    "8 bits": QuantSpec(torch.int8, symmetric=True, per_channel=True, observer="per_channel_mse"),
    "16 bits": QuantSpec(torch.int16, per_channel=True, observer="per_channel_mse"),
}


def errors(weight: Tensor, spec: QuantSpec) -> Tensor:
    integers, qparams = quantize_weight(weight, spec)
    return (qparams.dequantize(integers) - weight).double().square().sum(1)


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("group_size", [None, 16])
@pytest.mark.parametrize("name", SPECS)
def test_no_channel_is_worse_than_with_minmax(
    name: str, group_size: int | None, power_of_two: bool
) -> None:
    spec = replace(SPECS[name], group_size=group_size, power_of_two=power_of_two)
    plain = replace(spec, observer="per_channel_minmax")
    assert bool((errors(WEIGHT, spec) <= errors(WEIGHT, plain) * (1 + 1e-5)).all())


def test_close_to_the_best_of_a_fine_search() -> None:
    spec = SPECS["4 bits"]
    weight = WEIGHT[[0, 2, 4]]
    limit = weight.abs().amax(1)
    best = torch.full((3,), torch.inf, dtype=torch.float64)
    for share in torch.linspace(0.02, 1, 500):
        zero = torch.zeros(3, dtype=torch.int32)
        qparams = QParams(limit * share / 7.5, zero, torch.int8, -8, 7, axis=0)
        error = (qparams.dequantize(qparams.quantize(weight)) - weight).double().square().sum(1)
        best = torch.minimum(best, error)
    assert bool((errors(weight, spec) <= best * 1.02).all())


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from qfx.quant.observers import per_channel_mse

    _, whole = quantize_weight(WEIGHT, SPECS["4 bits"])
    monkeypatch.setattr(per_channel_mse, "_BLOCK", 100)
    _, blocks = quantize_weight(WEIGHT, SPECS["4 bits"])
    assert whole == blocks


def test_any_axis_and_shape() -> None:
    kernel = torch.randn(5, 7, 3, 3, generator=G)
    spec = replace(SPECS["4 bits"], axis=1)
    integers, _ = quantize_weight(kernel, spec)
    swapped, _ = quantize_weight(kernel.transpose(0, 1).contiguous(), SPECS["4 bits"])
    assert torch.equal(integers.transpose(0, 1), swapped)
    bias = torch.tensor([1.0, -2.0, 0.0])
    integers, qparams = quantize_weight(bias, SPECS["8 bits"])
    torch.testing.assert_close(qparams.dequantize(integers), bias, atol=0.01, rtol=0)


def test_several_tensors_give_the_mean_of_their_ranges() -> None:
    observers = [SPECS["4 bits"].make_observer() for _ in range(3)]
    both, one, two = observers
    for watching in (both, one):
        watching(WEIGHT)
    for watching in (both, two):
        watching(WEIGHT.flip(1) * 3)
    for mean, a, b in zip(both.range(), one.range(), two.range(), strict=True):
        torch.testing.assert_close(mean, (a + b) / 2)


def test_a_kernel_that_takes_one_scale_gets_the_same_search() -> None:
    per_tensor = WeightRule(per_channel=False)
    settled = settled_weight(SPECS["4 bits"], per_tensor)
    expected = QuantSpec(torch.int8, symmetric=True, observer="mse", quant_min=-8, quant_max=7)
    assert settled == expected
    moving = MovingAveragePerChannelMinMaxObserver.with_args(averaging_constant=0.5)
    settled = settled_weight(QuantSpec(torch.int8, per_channel=True, observer=moving), per_tensor)
    assert settled.observer_class.__name__ == "MovingAverageMinMaxObserver(averaging_constant=0.5)"

    class Own(PerChannelMinMaxObserver):
        options = ("speed",)

    own = QuantSpec(torch.int8, per_channel=True, observer=Own.with_args(speed=1))
    assert settled_weight(own, per_tensor) == QuantSpec(torch.int8)


def test_moving_averages_of_channels() -> None:
    observer = QuantSpec(
        torch.int8,
        per_channel=True,
        observer=MovingAveragePerChannelMinMaxObserver.with_args(averaging_constant=0.5),
    ).make_observer()
    observer(torch.tensor([[-1.0, 2.0], [0.0, 8.0]]))
    observer(torch.tensor([[-3.0, 4.0], [0.0, 0.0]]))
    # Nothing but zeros is no range, and counts for nothing.
    assert [end.tolist() for end in observer.range()] == [[-2.0, 0.0], [3.0, 8.0]]
    observer(torch.tensor([[-2.0, 3.0], [0.0, 2.0]]))
    assert [end.tolist() for end in observer.range()] == [[-2.0, 0.0], [3.0, 5.0]]
