"""``self.c(img[None])[0]`` on a CHW image was a PassError: the index ``None`` got lost.

With it the other indices that people write: of tensors, of tuples of tensors, and of shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded, sqnr


def set_at_none(y: Tensor) -> Tensor:
    y[None, 0, ..., 2] = 0.5
    return y


INDICES: dict[str, Callable[[Tensor], Tensor]] = {
    "None": lambda y: y[None],
    "None, None": lambda y: y[None, None],
    "..., None": lambda y: y[..., None],
    "None, :, 2": lambda y: y[None, :, 2],
    "..., None, 3, None": lambda y: y[..., None, 3, None],
    "True": lambda y: y[True],
    "()": lambda y: y[()],
    "boolean list": lambda y: y[:, [True, False] * 4],
    "boolean tensor": lambda y: y[:, torch.tensor([True, False] * 4)],
    "tensor": lambda y: y[:, torch.tensor([0, 3, 2])],
    "lists": lambda y: y[[0, 1], [0, 3]],
    "range": lambda y: y[:, range(3)],
    "mask of its own": lambda y: y[y.mean((1, 2, 3)) > -100.0],
    "set at None": lambda y: set_at_none(y.clone()),
    "chunks backwards": lambda y: torch.cat(y.chunk(2, 1)[::-1], 1),
    "list backwards": lambda y: torch.cat(list(y.split([3, 5], 1))[::-1], 1),
    "reversed": lambda y: torch.cat(list(reversed(y.unbind(0)))),
    "every other": lambda y: torch.stack(y.unbind(1)[-1::-2], 1),
    "sizes backwards": lambda y: y.reshape(y.shape[0], 8, *y.shape[:-3:-1]),
    "max": lambda y: y.max(dim=1)[0],
    "max by name": lambda y: y.max(dim=1).values,
    "sort backwards": lambda y: y.sort(dim=1)[::-1][1],
}


class Indexed(nn.Module):
    def __init__(self, index: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        return self.index(self.conv(x)) * 2.0


class OneImage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, img: Tensor) -> Tensor:
        return self.conv(img[None])[0]


class Coordinates(nn.Module):
    """As RAFT starts its flow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        rows, columns = torch.arange(height), torch.arange(width)
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=0).float()
        return self.conv(x + grid[None].repeat(batch, 1, 1, 1) / 8)


def check(model: nn.Module, *inputs: Any, others: tuple[Any, ...] = ()) -> None:
    quantized = qfx.quantize(model, inputs)
    assert quantized.report.coverage == 1.0
    for given in (inputs, *others):
        with torch.no_grad():
            expected, found = model(*given), quantized(*given)
        assert found.shape == expected.shape
        assert sqnr(expected, found) > 25


@pytest.mark.sweep(first=7)
@pytest.mark.parametrize("name", INDICES)
def test_index(name: str) -> None:
    check(seeded(lambda: Indexed(INDICES[name])), randn(2, 3, 8, 8))


def test_one_image() -> None:
    check(seeded(OneImage), randn(3, 8, 8), others=((randn(3, 12, 10),),))


def test_grid_backwards() -> None:
    check(seeded(Coordinates), randn(2, 2, 8, 8), others=((randn(3, 2, 6, 12),),))


def test_slices_of_a_tuple_argument() -> None:
    class LastOf(OneImage):
        def forward(self, images: tuple[Tensor, Tensor]) -> Tensor:
            return super().forward(images[::-1][0])

    check(seeded(LastOf), (randn(3, 8, 8), randn(3, 8, 8)))
