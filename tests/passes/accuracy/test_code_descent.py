"""Codes and scales are let fall one at a time: never worse, and near the best of all."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from qfx_passes.accuracy.code_descent import ScaledCodes, descend


def _case(size: int, groups: int = 1) -> tuple[Tensor, Tensor]:
    """A weight, and moments of inputs that are alike."""
    made = torch.Generator().manual_seed(0)
    x = torch.randn(groups, size, 60, generator=made, dtype=torch.float64).cumsum(1)
    return torch.randn(groups, 3, size, generator=made, dtype=torch.float64), x @ x.mT / 60


def _error(made: ScaledCodes, target: Tensor, moments: Tensor) -> Tensor:
    off = made.values() - target
    return (off @ moments * off).sum(2)


def _nearest(target: Tensor, scale: float, parts: int) -> ScaledCodes:
    shape = (*target.shape[:2], parts)
    return ScaledCodes((target / scale).round().clamp(-7, 7), torch.full(shape, scale).double())


def test_codes_are_nearly_the_best_of_all() -> None:
    target, moments = _case(4)
    floor = (target / 0.4).floor()
    start = ScaledCodes(floor, torch.full((1, 3, 1), 0.4).double())
    found = descend(start, target, moments, -7, 7, sweeps=8, moves_scales=False)
    assert torch.equal(found.scales, start.scales)
    every = (floor + torch.tensor(up).double() for up in itertools.product((0, 1), repeat=4))
    best = torch.stack([_error(ScaledCodes(c, start.scales), target, moments) for c in every])
    assert (_error(found, target, moments) <= 2 * best.amin(0)).all()
    assert (_error(start, target, moments) > 5 * best.amin(0)).all()


@pytest.mark.parametrize(("size", "groups", "parts"), [(9, 5, 1), (192, 1, 6), (300, 1, 1)])
def test_no_sweep_makes_it_worse(size: int, groups: int, parts: int) -> None:
    target, moments = _case(size, groups)
    made = _nearest(target, 0.4, parts)
    for moves in (True, False, True):
        before = _error(made, target, moments)
        made = descend(made, target, moments, -7, 7, sweeps=1, moves_scales=moves)
        assert (_error(made, target, moments) <= before * (1 + 1e-9)).all()
        assert made.codes.abs().max() <= 7
        assert torch.equal(made.codes, made.codes.round())


def test_a_scale_is_the_best_for_its_codes() -> None:
    target, moments = _case(8)
    start = _nearest(target, 0.3, 1)
    start.scales *= 1.3
    found = descend(start, target, moments, -7, 7, sweeps=40)
    settled = _error(found, target, moments)
    for factor in (0.999, 1.001):
        other = ScaledCodes(found.codes, found.scales * factor)
        assert (_error(other, target, moments) >= settled).all()


def test_what_is_zero_keeps_its_scale() -> None:
    target, moments = torch.zeros(1, 2, 4).double(), torch.eye(4).double().unsqueeze(0)
    start = _nearest(target, 0.5, 1)
    found = descend(start, target, moments, -7, 7, sweeps=2)
    assert torch.equal(found.codes, start.codes)
    assert torch.equal(found.scales, start.scales)
