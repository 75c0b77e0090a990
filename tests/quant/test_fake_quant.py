"""Fake-quants: what they compute, what gradients they give, what they hold."""

from __future__ import annotations

import math

import pytest
import torch

from qfx.quant import ops
from qfx.quant.fake_quant import FakeQuantize, LearnedFakeQuantize, WeightFakeQuantize
from qfx.quant.spec import QuantSpec
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
