"""Rounding in turn by moments of which little more than rounding errors is left."""

from __future__ import annotations

import torch

from qfx_passes.accuracy.rounding_in_turn import lacking, rounded_in_turn


def test_indefinite_moments_are_made_definite() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 8, 8, generator=generator, dtype=torch.float64)
    moments = noise + noise.mT
    moments[1] = torch.eye(8)
    added = torch.full((2,), 0.01, dtype=torch.float64)
    found = lacking(moments, added)
    assert found[0] > 0
    assert found[1] == 0
    damped = moments + torch.diag_embed((added + found).unsqueeze(1).expand(2, 8))
    weight = 5 * torch.randn(2, 3, 8, generator=generator, dtype=torch.float64)
    codes = rounded_in_turn(weight, damped, -8, 7)
    assert torch.equal(codes, codes.round())
    assert torch.equal(codes[1], weight[1].round().clamp(-8, 7))
