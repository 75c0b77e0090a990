"""Experts whose weights are one tensor stay float, with a reason, and their work is counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.torch_private import GROUPED_PRODUCTS

ROWS, IN, OUT = 6, 16, 8


class Experts(nn.Module):
    """Rows are sorted by expert; each expert multiplies its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(IN, IN)
        self.weight = nn.Parameter(torch.randn(3, OUT, IN))

    def forward(self, x: Tensor) -> Tensor:
        ends = torch.tensor([2, 2, ROWS], dtype=torch.int32)
        y: Tensor = GROUPED_PRODUCTS[0](self.first(x), self.weight.transpose(-2, -1), offs=ends)
        return y


class Branches(Experts):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if x.sum() > 0 else -y


@pytest.mark.skipif(not GROUPED_PRODUCTS, reason="this PyTorch has no grouped product")
@pytest.mark.parametrize("around", ["whole", "regions"])
def test_experts_in_one_tensor(around: str) -> None:
    torch.manual_seed(0)
    model: nn.Module = Experts()
    if around == "regions":
        model = nn.Sequential(Branches())
    quantized = qfx.quantize(model.eval(), torch.randn(ROWS, IN), method="dynamic")
    layer, experts = ROWS * IN * IN, ROWS * IN * OUT
    assert quantized.report.coverage == pytest.approx(layer / (layer + experts))
    if around == "regions":
        return
    (site,) = [s for s in quantized.report.sites if s.reason == "grouped-product"]
    assert (site.macs, site.unknown_macs) == (experts, False)
    assert "experts in one tensor" in site.message
