"""Weights that are restored when something computes with them, not when they are asked for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.graph.lazy import lazily
from qfx.numerics.measures import sqnr


def test_what_is_known_makes_nothing() -> None:
    made: list[Tensor] = []

    def make() -> Tensor:
        made.append(torch.arange(6.0).view(2, 3))
        return made[-1]

    lazy = lazily(torch.empty(2, 3), make, torch.device("cpu"))
    assert (lazy.dtype, lazy.device, lazy.shape) == (torch.float32, torch.device("cpu"), (2, 3))
    assert (lazy.ndim, lazy.dim(), lazy.size(1), lazy.numel()) == (2, 2, 3, 6)
    assert lazy.is_floating_point()
    assert not made
    assert torch.equal(lazy + 1, torch.arange(1.0, 7).view(2, 3))
    assert torch.equal(torch.ones(3) @ lazy.T, torch.tensor([3.0, 12.0]))
    assert lazy[1, 2] == 5
    assert type(copy.deepcopy(lazy)) is Tensor
    assert "tensor(" in repr(lazy)
    with pytest.warns(UserWarning, match="copy construct"):  # by C++, which asks no Python first
        assert torch.tensor(lazy).tolist() == lazy.tolist()
    assert len(made) >= 5


class Asks(nn.Module):
    """Asks a layer for its dtype, as models of transformers do, and decides by data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.to(self.layer.weight.dtype))
        return y if x.sum() > 0 else -y


class Computes(Asks):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.layer.weight[0]


class Writes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.weight = nn.Parameter(torch.ones(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x.add_(1)
        y: Tensor = self.layer(x)
        return y


def test_a_layer_that_is_asked_for_its_dtype_is_a_region() -> None:
    torch.manual_seed(0)
    model, x = Asks().eval(), torch.randn(16, 8)
    for method in ("static", "dynamic"):
        quantized = qfx.quantize(model, x, method=method)
        assert list(quantized.regions) == ["layer"]
        assert all(sqnr(model(given), quantized(given)) > 25 for given in (x, -x))
        assert sqnr(model.layer.weight, quantized.layer.weight) > 40
        assert torch.equal(copy.deepcopy(quantized)(x), quantized(x))


def test_a_layer_whose_weight_is_computed_with_is_none() -> None:
    model, x = nn.Sequential(Computes(), nn.Linear(8, 8)).eval(), torch.randn(16, 8)
    quantized = qfx.quantize(model, x)
    assert list(quantized.regions) == ["1"]
    (left,) = [site for site in quantized.report.sites if site.decision == "float"]
    assert "reads 'weight' of it" in left.message


def test_of_a_region_that_writes_to_its_arguments_nothing_is_asked() -> None:
    class AsksFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Writes()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.part(x.to(self.part.weight.dtype))
            return y if x.sum() > 0 else -y

    quantized = qfx.quantize(AsksFirst().eval(), torch.randn(16, 8))
    assert list(quantized.regions) == ["part.layer"]
