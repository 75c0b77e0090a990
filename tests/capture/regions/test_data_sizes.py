"""Guards on sizes that the contents of tensors decide are found; those on other sizes are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qfx.capture.capture import capture
from qfx.capture.regions.data_sizes import decided_by_data


class Computes(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def more(x: Tensor, kept: Tensor) -> Tensor:
    return x + 1 if kept.shape[0] > 3 else x * 2


DECIDED: dict[str, Callable[[Tensor], Tensor]] = {
    "mask": lambda x: more(x, x[x[:, 0] > 0]),
    "nonzero": lambda x: more(x, (x > 0).nonzero()),
    "where": lambda x: more(x, torch.where(x > 0)[0]),
    "unique": lambda x: more(x, torch.unique(x.round())),
    "through": lambda x: more(x, x[x[:, 0] > 0].relu() * 2),
    "counts": lambda x: more(x, x.repeat_interleave(repeats=(x[:, 0] > 0) + 1, dim=0)),
    "operator": lambda x: more(x, torch.ops.aten.masked_select(x, x > 0)),
}
NOT_DECIDED: dict[str, Callable[[Tensor], Tensor]] = {
    "batch": lambda x: more(x, x),
    "no guard": lambda x: x + x[x[:, 0] > 0].sum(),
    "where of three": lambda x: more(x, torch.where(x > 0, x, 0.0)),
    "index": lambda x: more(x, x[torch.arange(2)]),
    "repeated": lambda x: more(x, x.repeat_interleave(x.shape[1] // 2, dim=0)),
    "rank": lambda x: x + 1 if x[x > 0].dim() == 1 else x,
}


@pytest.mark.parametrize("name", DECIDED)
def test_found_with_its_line(name: str) -> None:
    captured = capture(Computes(DECIDED[name]), (torch.randn(5, 4),))
    assert "test_data_sizes.py" in decided_by_data(captured)


@pytest.mark.parametrize("name", NOT_DECIDED)
def test_not_found(name: str) -> None:
    captured = capture(Computes(NOT_DECIDED[name]), (torch.randn(5, 4),))
    assert decided_by_data(captured) == ""
