"""Fake-quants: what they compute, what gradients they give, what they hold."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from qfx.quant.fake_quant import FakeQuantize
from qfx.quant.learned_fake_quant import LearnedFakeQuantize
from qfx.quant.observers import (
    MovingAveragePerChannelMinMaxObserver,
    Observer,
    PerChannelMinMaxObserver,
)
from qfx.quant.qparams import quantize_weight
from qfx.quant.spec import QuantSpec
from qfx.quant.weight_fake_quant import WeightFakeQuantize
from qfx.semantics import affine as ops
from tests.cases.flow import randn

ACTIVATION = QuantSpec(torch.uint8, observer="moving_average_minmax")
WEIGHT = QuantSpec(torch.int8, symmetric=True, per_channel=True, quant_min=-127)


def test_it_rounds_as_the_integers_will() -> None:
    fake_quant, x = FakeQuantize(ACTIVATION), randn(64, 8)
    y = fake_quant(x)
    qparams = fake_quant.qparams()
    assert torch.equal(y, qparams.dequantize(qparams.quantize(x)))
    assert torch.equal(fake_quant.eval()(10 * x), qparams.dequantize(qparams.quantize(10 * x)))


def test_the_range_is_averaged_over_batches() -> None:
    fake_quant = FakeQuantize(ACTIVATION)
    fake_quant(torch.tensor([-1.0, 3.0]))
    fake_quant(torch.tensor([-2.0, 4.0]))
    assert fake_quant.observer.min_val.item() == pytest.approx(-1.01)
    assert fake_quant.observer.max_val.item() == pytest.approx(3.01)
    assert fake_quant.scale.item() == pytest.approx(4.02 / 255)


def test_gradients_pass_inside_the_range_only() -> None:
    fake_quant = FakeQuantize(ACTIVATION)
    fake_quant(torch.tensor([0.0, 2.55]))
    x = torch.tensor([-0.5, 0.1, 2.0, 3.0], requires_grad=True)
    fake_quant.eval()(x).backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 0.0]


def test_a_weight_is_followed_in_evaluation_too() -> None:
    weight = randn(4, 3, 3, 3)
    fake_quant = WeightFakeQuantize(WEIGHT, weight).eval()
    for factor in (1.0, 2.0):
        y = fake_quant(weight * factor)
        qparams = fake_quant.chosen(weight * factor)
        assert fake_quant.qparams() == qparams
        assert torch.equal(y, qparams.dequantize(qparams.quantize(weight * factor)))
    fake_quant.observer_enabled = False
    fake_quant(weight * 8)
    assert fake_quant.qparams() == fake_quant.chosen(weight * 2)


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_scale_starts_where_calibration_ended_and_follows_the_weight(per_channel: bool) -> None:
    spec = QuantSpec(torch.int8, symmetric=True, per_channel=per_channel, quant_min=-127)
    weight = randn(4, 3, 3, 3)
    started, other = WeightFakeQuantize(spec, weight), WeightFakeQuantize(spec, weight)
    started.start_from(other.qparams())
    assert started.start is None, "it is where it would be anyway"
    found = other.chosen(weight)
    first = replace(found, scale=found.scale * 0.7)
    started.start_from(first)
    for factor in (1.0, 2.0, 0.5):  # exact in float32
        expected = replace(first, scale=first.scale * factor)
        assert started.chosen(weight * factor) == expected
        started(weight * factor)
        assert started.qparams() == started.qparams_of(weight * factor) == expected
    started.observer_enabled = False
    assert started.qparams_of(weight) == replace(first, scale=first.scale * 0.5)
    started.observer_enabled = True
    states = started.state_dict(), other.state_dict()
    other.load_state_dict(states[0])
    started.load_state_dict(states[1])
    assert (other.chosen(weight), started.chosen(weight)) == (first, found)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_learned_scales_have_the_gradient_of_lsq(axis: int | None) -> None:
    """Against the formula of the paper, value by value."""
    x, low, high = randn(6, 5, seed=1), -7, 7
    shape = () if axis is None else (x.shape[axis],)
    scale = torch.full(shape, 0.2).requires_grad_()
    zero = torch.zeros(shape, dtype=torch.int32)
    weight = randn(6, 5, seed=2)
    y = ops.learned_fake_quantize(x, scale, zero, low, high, axis=axis, gradient_scale=0.5)
    (y * weight).sum().backward()
    v = x / 0.2
    of_each = torch.where(v <= low - 0.5, low, torch.where(v >= high + 0.5, high, v.round() - v))
    of_each = of_each * weight * 0.5
    expected = of_each.sum() if axis is None else of_each.sum(1 - axis)
    torch.testing.assert_close(scale.grad, expected)
    torch.testing.assert_close(y, ops.fake_quantize(x, 0.2, 0, quant_min=low, quant_max=high))


def test_learned_scales_start_where_the_paper_says() -> None:
    weight = randn(4, 9)
    spec = QuantSpec(
        torch.int8, symmetric=True, per_channel=True, quant_min=-7, quant_max=7,
        observer="lsq_per_channel",
    )  # fmt: skip
    fake_quant = LearnedFakeQuantize(spec, weight)
    torch.testing.assert_close(fake_quant.scale, 2 * weight.abs().mean(1) / math.sqrt(7))
    fake_quant(weight * 3)
    torch.testing.assert_close(fake_quant.scale, 2 * weight.abs().mean(1) / math.sqrt(7))


def test_learning_a_scale_lessens_the_error() -> None:
    x = randn(4096)
    spec = QuantSpec(torch.int8, symmetric=True, quant_min=-7, quant_max=7, observer="lsq")
    fake_quant = LearnedFakeQuantize(spec)
    fake_quant(x)
    fake_quant.scale.data.mul_(3)
    optimizer, errors = torch.optim.Adam(fake_quant.parameters(), 0.02), []
    for _ in range(150):
        error = (fake_quant(x) - x).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    best = min(
        (ops.fake_quantize(x, s, 0, quant_min=-7, quant_max=7) - x).square().mean().item()
        for s in torch.linspace(0.1, 1.0, 91).tolist()
    )
    assert errors[-1] < 1.02 * best < errors[0]


def test_state_holds_switches_and_ranges() -> None:
    first, second = FakeQuantize(ACTIVATION), FakeQuantize(ACTIVATION)
    first(randn(8))
    first.observer_enabled = False
    second.load_state_dict(first.state_dict())
    assert (second.observer_enabled, second.fake_quant_enabled, second.seen) == (False, True, True)
    assert torch.equal(first(randn(8, seed=1)), second(randn(8, seed=1)))


def test_zeros_are_no_range() -> None:
    """They neither start an average nor pull it in."""
    fake_quant = FakeQuantize(ACTIVATION)
    zeros, x = torch.zeros(8), torch.tensor([-1.0, 3.0])
    for value in (zeros, zeros, x, zeros):
        fake_quant(value)
    assert fake_quant.observer.range() == (torch.tensor(-1.0), torch.tensor(3.0))
    assert fake_quant.scale.item() == pytest.approx(4 / 255)


def test_a_range_follows_values_that_keep_growing() -> None:
    fake_quant = FakeQuantize(ACTIVATION)
    for step in range(5):
        fake_quant(torch.tensor([-0.5, 1.0 + 0.1 * step]))
    assert fake_quant.observer.max_val.item() == pytest.approx(1.4)
    assert fake_quant.observer.min_val.item() == -0.5
    for size in (2.0, 20.0, 200.0):
        fake_quant(torch.tensor([-0.5, size]))
    assert fake_quant.observer.max_val.item() == 200.0


def test_an_outlier_moves_an_average_by_its_share_only() -> None:
    fake_quant = FakeQuantize(ACTIVATION)
    for size in (1.0, 100.0, 1.0):
        fake_quant(torch.tensor([0.0, size]))
    assert fake_quant.observer.max_val.item() == pytest.approx(1.99 - 0.0099)


def test_state_of_an_earlier_version_loads() -> None:
    first, second = FakeQuantize(ACTIVATION), FakeQuantize(ACTIVATION)
    first(randn(8))
    state = first.state_dict()
    del state["observer.beyond"]
    second.load_state_dict(state)
    assert torch.equal(first.eval()(randn(8, seed=1)), second.eval()(randn(8, seed=1)))


@pytest.mark.parametrize("axis", [None, 0])
def test_learned_scales_start_at_what_is_not_zero_and_again_where_they_are_lost(
    axis: int | None,
) -> None:
    name = "lsq" if axis is None else "lsq_per_channel"
    spec = QuantSpec(
        torch.int8, symmetric=True, per_channel=axis is not None, quant_min=-127, observer=name
    )
    weight = randn(4, 9)
    fake_quant = LearnedFakeQuantize(spec, torch.zeros(4, 9))
    assert torch.equal(fake_quant(torch.zeros(4, 9)), torch.zeros(4, 9))
    for factor, base in ((1e-6, 1e-6), (3e-6, 1e-6), (1.0, 1.0), (2.0, 1.0)):
        fake_quant(weight * factor)
        mean = weight.abs().mean() if axis is None else weight.abs().mean(1)
        torch.testing.assert_close(fake_quant.scale, base * 2 * mean / math.sqrt(127))


class Clipped(PerChannelMinMaxObserver):
    """Records in a way of its own."""

    def record(self, x: torch.Tensor) -> None:
        super().record(x.clamp(-0.5, 0.5))


MOVING = MovingAveragePerChannelMinMaxObserver.with_args(averaging_constant=0.3)


@pytest.mark.parametrize("observer", ["per_channel_minmax", "per_channel_mse", MOVING, Clipped])
def test_any_observer_follows_a_weight(observer: type[Observer] | str) -> None:
    spec = QuantSpec(
        torch.int8, symmetric=True, per_channel=True, quant_min=-127, observer=observer
    )
    fake_quant = WeightFakeQuantize(spec, randn(4, 9))
    for seed in (1, 2):
        weight = randn(4, 9, seed=seed) / seed
        y = fake_quant(weight)
        _, qparams = quantize_weight(weight, spec)
        assert fake_quant.qparams() == qparams
        assert torch.equal(y, qparams.dequantize(qparams.quantize(weight)))
    assert fake_quant(weight.where(weight < 0.3, math.nan)).isnan().any()
    assert fake_quant(weight).isfinite().all()  # nothing is left of it
    if observer is Clipped:
        assert fake_quant.scale.max() <= 0.5 / 127


def test_a_frozen_weight_of_zeros_is_followed_until_it_moves() -> None:
    fake_quant = WeightFakeQuantize(WEIGHT, torch.zeros(4, 9))
    fake_quant.observer_enabled = False
    weight = randn(4, 9)
    for factor in (0.0, 1e-3, 1.0):
        fake_quant(weight * factor)
    assert fake_quant.qparams() == fake_quant.chosen(weight * 1e-3)
