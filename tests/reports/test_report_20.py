"""Tests of ties failed under torch 2.14.1, which rounds before it adds the zero point."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.semantics import affine as ops

STEP = 2.0**-5


class Grid(nn.Module):
    """Weights and inputs on a grid, so that half of the inputs lie halfway between two codes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        self.pool = nn.AvgPool2d(2)
        nn.init.ones_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(x))


def inputs() -> Tensor:
    """Multiples of half a step, with a zero point that is odd."""
    return torch.arange(-35, 221).reshape(1, 1, 16, 16) * (STEP / 2)


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack", "reference"])
def test_lowered_agrees_with_reference_within_a_step(backend: str) -> None:
    if backend not in qfx.backends.available():
        pytest.skip(f"no {backend} here")
    model, x = Grid().eval(), inputs()
    qmodel = qfx.quantize(model, x, backend=backend)
    quantizes = [n for n in qmodel.reference.graph.nodes if n.target is qfx.vocab.QUANTIZE]
    largest = max(float(n.args[1]) for n in quantizes)  # type: ignore[arg-type]
    with torch.no_grad():
        got, meant, float_ = qmodel(x), qmodel.reference(x), model(x)
    # The codes of the input may differ by one at ties, and so may what the pool makes of them.
    assert (got - meant).abs().max() <= 2.01 * largest
    assert (got - float_).abs().max() <= 3.01 * largest


@pytest.mark.parametrize("zero_point", [0, 35, 101])
def test_ties_go_to_the_even_code_on_every_version(zero_point: int) -> None:
    x = (torch.arange(-20, 20) + 0.5) * STEP
    codes = ops.quantize(x, STEP, zero_point)
    assert (codes[(codes > 0) & (codes < 255)] % 2 == 0).all()
