"""Attention that hands out its weights: the report knew no MACs for it, and raised KeyError."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded, sqnr

X = randn(2, 5, 16)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, weights = self.attention(x, x, x)
        return values, weights


@pytest.mark.parametrize("backend", ["x86", "fbgemm"])
def test_attention_with_weights(backend: str) -> None:
    model = seeded(Attention)
    qmodel = qfx.quantize(model, X, backend=backend)
    for expected, got in zip(model(X), qmodel(X), strict=True):
        assert sqnr(expected, got) > 20
    # four projections of 16x16 for 10 tokens; q k^T, and weights times values, 4 heads of 4
    projections, product = 4 * 10 * 16 * 16, 2 * 4 * 5 * 5 * 4
    assert sum(site.macs or 0 for site in qmodel.report.sites) == projections + 2 * product
