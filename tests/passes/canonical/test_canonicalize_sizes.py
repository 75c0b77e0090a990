"""Sizes that Python computes with stay what they are: one number, or a whole torch.Size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qfx_passes.canonical.canonicalize import Canonicalize
from tests.support.checking import run


class Merge(nn.Module):
    """Merges the last two dimensions by a torch.Size, as encoders merge their heads."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method

    def forward(self, x: Tensor) -> Tensor:
        merged = x.size()[:-2] + (x.shape[-2] * x.shape[-1],)  # noqa: RUF005 - as people write it
        return getattr(x, self.method)(merged)


@pytest.mark.parametrize("method", ["reshape", "view"])
def test_a_sum_of_sizes_is_a_shape(method: str) -> None:
    model = Merge(method).eval()
    result = run(Canonicalize(), model, torch.randn(2, 3, 4, 5))
    for shape in ((2, 3, 4, 5), (7, 2, 3, 4)):
        x = torch.randn(*shape)
        assert torch.equal(result.graph_module(x), model(x))
