"""Values that a forward writes to in place, and then asks for their device or dtype."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded

X = randn(2, 6, 8)


class Masked(nn.Module):
    """Hidden states are masked, and the mask becomes what they are (HuBERT, data2vec-audio)."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.linear, self.head, self.by = nn.Linear(8, 8), nn.Linear(8, 4), by

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.linear(x)
        mask = x.mean(-1) > 0
        hidden[~mask] = 0
        if self.by == "device":
            mask = mask.to(device=hidden.device)
        elif self.by == "both":
            mask = mask.to(device=hidden.device, dtype=hidden.dtype)
        else:
            mask = mask.to(hidden.device)
        logits: Tensor = self.head(hidden)
        return logits * mask.unsqueeze(-1)


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["static", "dynamic"])
@pytest.mark.parametrize("by", ["device", "both", "position"])
def test_they_are_still_read(by: str, method: str) -> None:
    model = seeded(lambda: Masked(by))
    quantized = qfx.quantize(model, X, method=method, backend="reference")
    assert quantized.report.coverage == 1.0
    for other in (X, randn(3, 5, 8)):
        expected = model(other)
        torch.testing.assert_close(quantized(other), expected, rtol=0.1, atol=0.1)
        assert torch.equal(quantized(other) == 0, expected == 0)
