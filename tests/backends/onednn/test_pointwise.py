"""Which convolutions run as linear layers on pixels: 1x1, not strided, padded or grouped."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qfx.backends.onednn import calls
from tests.cases.flow import quantized, randn, seeded, targets


class Pointwise(nn.Module):
    def __init__(self, geometry: dict[str, int]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 1, **geometry), nn.Conv2d(8, 8, 1, **geometry)
        self.last = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(torch.relu(self.a(x) + self.b(x)))
        return y


@pytest.mark.parametrize(
    ("geometry", "kernel"),
    [
        ({}, calls.pointwise_add),
        ({"stride": 2}, calls.conv2d_add),
        ({"padding": 1}, calls.conv2d_add),
        ({"groups": 2}, calls.conv2d_add),
    ],
)
def test_pointwise_convolutions_add_residuals_in_place(
    geometry: dict[str, int], kernel: object
) -> None:
    model, x = seeded(Pointwise, geometry), randn(2, 8, 10, 10)
    qmodel = quantized(model, x, "x86", quantize=1, dequantize=0)
    assert (calls.pointwise in targets(qmodel)) is (kernel is calls.pointwise_add)
    assert [t for t in targets(qmodel) if t in (calls.pointwise_add, calls.conv2d_add)] == [kernel]
