"""Models that amplify the rounding of floats: no pass is to blame, and faults still are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx.capture.capture import capture
from qfx.verification.outputs import agreement, compared, shaken_outcomes

X = torch.linspace(-1, 1, 96).reshape(2, 3, 4, 4)


class Amplifies(nn.Module):
    """Folding the norm changes the last bits, and the sine of a large number makes more of them."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.norm.get_buffer("running_var").uniform_(0.5, 1.5)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.norm(self.conv(x)) * self.factor)


class ScaleWeight(qfx.Pass):
    name = "scale-weight"

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        conv = ctx.graph_module.get_submodule("conv")
        conv.weight = nn.Parameter(conv.get_parameter("weight") * 1.001)


@pytest.mark.parametrize("method", ["static", "qat"])
def test_rounding_is_no_fault(method: str) -> None:
    model = Amplifies(3e4).eval()
    prepared = qfx.prepare(model, X, method=method, backend="reference")
    quantized = qfx.convert(qfx.calibrate(prepared, [X]))
    assert quantized.report.sites


def test_a_fault_is_one_all_the_same() -> None:
    with pytest.raises(qfx.PassError, match="pass scale-weight changes what the model computes"):
        qfx.run_passes(Amplifies(3e4).eval(), [ScaleWeight()], X)


@pytest.mark.parametrize(("factor", "low", "high"), [(1.0, 110, 150), (3e4, 20, 60)])
def test_what_rounding_leaves(factor: float, low: float, high: float) -> None:
    captured = capture(Amplifies(factor).eval(), (X,))
    plain, shaken = shaken_outcomes(captured, ((X,), {}))
    assert low < agreement(plain, shaken) - 10 < high
    again, _ = shaken_outcomes(captured, ((X,), {}))
    assert math.isinf(agreement(plain, again)), "it stays as it was"
    assert compared(plain, shaken, (plain, shaken)).holds
