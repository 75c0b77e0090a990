"""Transformers of PyTorch with masks: given, or made in forward for the length at hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded, sqnr


def _layer() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)


class Causal(nn.Module):
    """A language model's trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(_layer(), 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        made: Tensor = self.encoder(x, mask=mask, is_causal=True)
        return made


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_masks_that_are_given(dtype: torch.dtype, backend: str) -> None:
    model, x = seeded(_layer), randn(2, 5, 16)
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    mask = future if dtype == torch.bool else torch.zeros(5, 5).masked_fill(future, -torch.inf)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 4] = True
    for masks in ((mask,), (mask, padding)):
        if dtype == torch.float32:
            masks = (mask, *(torch.zeros(2, 5).masked_fill(m, -torch.inf) for m in masks[1:]))
        qmodel = qfx.quantize(model, (x, *masks), method="dynamic", backend=backend)
        assert sqnr(model(x, *masks), qmodel(x, *masks)) > 30
        assert sqnr(model(x), qmodel(x, *masks)) < 25


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_masks_that_are_made(method: str) -> None:
    model, x = seeded(Causal), randn(2, 5, 16)
    qmodel = qfx.quantize(model, x, method=method, backend="x86")
    for inputs in (x, randn(1, 9, 16)):
        assert sqnr(model(inputs), qmodel(inputs)) > 25
    changed = x.clone()
    changed[:, 3:] = 0
    assert sqnr(qmodel(x)[:, :3], qmodel(changed)[:, :3]) > 30
