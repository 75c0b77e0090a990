"""Arguments that the graph computes from shapes: settled where they can have one value only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from tests.cases.flow import less_a_bit, randn, seeded, sqnr


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 1, 3))
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv1d(x, self.weight, groups=x.shape[1])
        return F.layer_norm(y, y.shape[-1:], self.norm.weight, self.norm.bias)


def test_groups_and_normalized_shapes_are_settled() -> None:
    model, x = seeded(Depthwise), randn(2, 8, 8)
    qmodel = qfx.quantize(model, x, backend="fbgemm")
    assert {site.decision for site in qmodel.report.sites} == {"quantized"}
    for inputs in (x, randn(5, 8, 8)):
        assert sqnr(model(inputs), qmodel(inputs)) > less_a_bit(30, "fbgemm")


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return F.avg_pool2d(y, y.shape[-2:])


def test_what_can_vary_is_said_to_be_computed() -> None:
    model, x = seeded(Pooled), randn(1, 3, 8, 8)
    qmodel = qfx.quantize(model, x, backend="x86")
    assert [site.reason for site in qmodel.report.sites] == ["", "unknown-form"]
    assert "its kernel_size is computed" in qmodel.report.sites[1].message
    larger = randn(1, 3, 12, 9)
    assert sqnr(model(larger), qmodel(larger)) > 25
