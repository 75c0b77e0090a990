"""Methods of constants, given sizes one by one, were refused: "takes 1 positional argument".

``torch.arange(8)[None].expand(x.shape[0], -1)``, the position ids of BERT. Only proxies record the
methods that they are asked for; the arguments of a constant's are parsed by PyTorch first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.capture.capture import capture
from tests.cases.flow import randn, seeded

Made = Callable[[Tensor], Tensor]


def row() -> Tensor:
    return torch.arange(8.0)[None]


def line() -> Any:
    return torch.arange(8.0)


MADE: dict[str, Made] = {
    "expand": lambda x: row().expand(x.shape[0], -1),
    "expand, starred": lambda x: torch.zeros(1, 8).expand(*x.shape),
    "expand, a number last": lambda x: row().expand(-1, x.size(1)),
    "repeat": lambda x: row().repeat(x.shape[0], 1),
    "tile": lambda x: row().tile(x.shape[0], 1),
    "view": lambda x: row().view(x.shape[1], 1),
    "reshape": lambda x: row().reshape(x.shape[1], 1),
    "permute": lambda x: row().permute(x.dim() - 1, 0),
    "unflatten": lambda x: line().unflatten(0, (x.shape[1] // 2, -1)),
    "roll": lambda x: line().roll(x.shape[0]),
    "roll, dims": lambda x: row().roll(x.shape[0], 1),
    "roll, a keyword": lambda x: row().roll(shifts=x.shape[0], dims=1),
    "torch.roll": lambda x: torch.roll(line(), x.shape[0]),
    "split": lambda x: line().split(x.shape[1] // 2)[1],
    "torch.split": lambda x: torch.split(line(), x.shape[1] // 2)[1],
    "split, sizes": lambda x: line().split([x.shape[0], 8 - x.shape[0]])[0],
    "new_zeros": lambda x: line().new_zeros(x.shape[0], 8),
    "new_ones, starred": lambda x: line().new_ones(*x.shape),
    "new_empty": lambda x: line().new_empty(8, x.shape[0]).fill_(2),
    "new_full": lambda x: line().new_full((x.shape[0], 8), x.shape[1]),
    "new_tensor": lambda x: line().new_tensor([x.shape[0], 3.0]),
    "narrow": lambda x: line().narrow(0, 1, x.shape[0]),
    "triu": lambda x: torch.ones(8, 8).triu(x.shape[0]),
    "sum": lambda x: row().sum(x.dim() - 1),
    "mean": lambda x: row().mean(x.dim() - 1),
}


class Adds(nn.Module):
    def __init__(self, made: Made) -> None:
        super().__init__()
        self.linear, self.made = nn.Linear(8, 8), made

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(x) + self.made(x).sum()
        return result


@pytest.mark.parametrize("how", MADE)
def test_sizes_stay_symbolic(how: str) -> None:
    model = seeded(lambda: Adds(MADE[how]))
    captured = capture(model, (randn(2, 8),))
    for rows in (2, 1, 5, 7):
        x = randn(rows, 8)
        torch.testing.assert_close(captured(x), model(x))


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 8), nn.Embedding(6, 8)
        self.linear = nn.Linear(8, 8)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(6)[None].expand(ids.shape[0], -1)
        result: Tensor = self.linear(self.words(ids) + self.places(places))
        return result


def test_position_ids_at_other_batch_sizes() -> None:
    model = seeded(Positions)
    ids = torch.arange(12).reshape(2, 6)
    quantized = qfx.quantize(model, ids)
    for batch in (2, 1, 3):
        ids = torch.arange(6 * batch).reshape(batch, 6)
        expected = model(ids)
        assert quantized(ids).shape == expected.shape
        assert (quantized(ids) - expected).abs().max() < 0.1 * expected.abs().max()


def test_tensors_are_as_they_were_afterwards() -> None:
    before = {name: getattr(torch.Tensor, name) for name in dir(torch.Tensor) if name[0] != "_"}
    own = set(vars(torch.Tensor))
    capture(seeded(lambda: Adds(MADE["expand"])), (randn(2, 8),))
    with pytest.raises(qfx.ConfigError):
        capture(seeded(lambda: Adds(lambda x: row().expand(x.shape[0], 9))), (randn(2, 8),))
    assert set(vars(torch.Tensor)) == own
    assert all(getattr(torch.Tensor, name) == method for name, method in before.items())
