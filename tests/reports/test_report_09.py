"""A model that ran at 96x96 and keeps what it computed there could not be quantized at 64x64.

Where the model makes its cache anew it works; else the message names the cache and the way out.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded, sqnr

pytestmark = pytest.mark.filterwarnings("ignore:forward sets:qfx.QfxWarning")


def grid_of(y: Tensor) -> Tensor:
    rows, columns = torch.arange(y.shape[-2]), torch.arange(y.shape[-1])
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")) / 8


class Anew(nn.Module):
    """As YOLO heads keep their grid: made again when the size is another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)
        self.reset()

    def reset(self) -> None:
        self.grid = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.grid.shape[-2:] != y.shape[-2:]:
            self.grid = grid_of(y)
        return y + self.grid


class Buffered(Anew):
    def reset(self) -> None:
        self.register_buffer("grid", torch.zeros(1), persistent=False)


class Listed(Anew):
    def reset(self) -> None:
        self.grids = [torch.zeros(1)]

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.grids[0].shape[-2:] != y.shape[-2:]:
            self.grids[0] = grid_of(y)
        return y + self.grids[0]


class Once(Anew):
    """Made at the first call, and never again."""

    def reset(self) -> None:
        self.grid = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.grid is None:
            self.grid = grid_of(y)
        return y + self.grid


class OnceBuffered(Once):
    def reset(self) -> None:
        self.register_buffer("grid", None, persistent=False)


def ran(model: nn.Module, size: int) -> nn.Module:
    with torch.no_grad():
        model(randn(1, 3, size, size))
    return model


@pytest.mark.parametrize("kind", [Anew, Buffered, Listed])
def test_a_cache_that_is_made_anew(kind: type[Anew]) -> None:
    quantized = qfx.quantize(ran(seeded(kind), 12), randn(2, 3, 8, 8))
    for size in (8, 16):
        x = randn(2, 3, size, size)
        assert sqnr(seeded(kind)(x), quantized(x)) > 20
    # At the very size of the cache the model goes another way.
    with pytest.raises(qfx.ConfigError, match=r"a branch at .*test_report_09.py"):
        quantized(randn(2, 3, 12, 12))


@pytest.mark.parametrize("kind", [Once, OnceBuffered])
def test_a_stale_cache_is_named(kind: type[Once]) -> None:
    model, x = ran(seeded(kind), 12), randn(2, 3, 8, 8)
    with pytest.raises(qfx.ConfigError, match=r"the model itself raises.*add") as caught:
        qfx.quantize(model, x)
    text = str(caught.value)
    assert "reset what a run on inputs of other sizes may have left in it (grid)" in text
    assert "pass a model that has not run yet" in text
    model.reset()
    quantized = qfx.quantize(model, x)
    other = randn(1, 3, 16, 16)
    assert sqnr(seeded(kind)(other), quantized(other)) > 20


def test_no_cache_no_word_of_it() -> None:
    with pytest.raises(
        qfx.ConfigError, match="the shapes and dtypes that the model takes"
    ) as caught:
        qfx.quantize(nn.Sequential(nn.Conv2d(4, 2, 3)).eval(), randn(2, 3, 8, 8))
    assert "reset" not in str(caught.value)
