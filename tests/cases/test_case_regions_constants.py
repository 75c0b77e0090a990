"""A region holds each weight once: what constant folding renames is found among its graphs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.graph.ways import ways_of
from qfx.numerics.measures import sqnr
from qfx.runtime.inside import weights_held


class Experts(nn.Module):
    """Weights of all experts in tensors that are read swapped, one by one, and both."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 3)
        self.up = nn.Parameter(torch.randn(3, 32, 16) / 4)
        self.down = nn.Parameter(torch.randn(3, 32, 16) / 6)
        self.mixed = nn.Parameter(torch.randn(3, 16, 16) / 4)
        self.square = nn.Parameter(torch.randn(16, 16) / 4)

    def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
        shares = self.gate(x).softmax(-1).T[..., None]
        if scale is not None:  # folding gives other names in this way
            x = x.matmul(self.square.T.contiguous()) * scale
        y = torch.bmm(x.expand(3, -1, -1), self.up.transpose(1, 2).to(x.dtype)).relu()
        y = torch.stack([y[at] @ self.down[at] for at in range(3)])
        y = torch.stack([nn.functional.linear(y[at], self.mixed[at]) for at in range(3)])
        return (y * shares).sum(0).matmul(self.square.T.contiguous())


class Decides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = Experts()

    def forward(self, x: Tensor) -> Tensor:
        y = self.experts(x) + self.experts(x, 0.5)
        return y if y.sum() > 0 else -y


torch.manual_seed(0)
MODEL, X = Decides().eval(), torch.randn(5, 16)


@pytest.fixture(scope="module", params=["dynamic", "static", "weight_only"])
def quantized(request: pytest.FixtureRequest) -> Any:
    return qfx.quantize(MODEL, X, method=request.param)


def held(model: Any) -> Iterator[Tensor]:
    """What the regions of a model, and what is inside them, hold; each once."""
    modules = [graph.reference for graph in model.regions.values()]
    modules.append(ways_of(model.experts).inside)
    tensors = (t for m in modules for t in (*m.parameters(), *m.buffers()))
    yield from {id(t): t for t in tensors}.values()


def test_no_weight_is_held_twice(quantized: Any) -> None:
    assert list(quantized.regions) == ["experts", "experts#2"]
    matrices = [t for t in held(quantized) if t.dim() > 1 and t.is_floating_point()]
    for one, other in combinations(matrices, 2):
        for turned in (other, other.mT):
            assert one.shape != turned.shape or not torch.equal(one, turned)
    inside = ways_of(quantized.experts).inside
    weights = {"gate.weight", "up", "down", "mixed", "square"}
    assert {name for name, _ in weights_held(inside)} == weights


def test_the_size_is_that_of_what_is_held(quantized: Any) -> None:
    before, after = quantized.report.size_bytes
    assert after == sum(t.numel() * t.element_size() for t in held(quantized))
    assert after < before


@torch.no_grad()
def test_what_no_graph_takes_is_right_also_from_a_file(quantized: Any, tmp_path: Path) -> None:
    loaded = qfx.load(qfx.save(quantized, tmp_path / "m.qfx"), model=Decides())
    more = 0.9 * X.flip(0)[:4]
    for model in (quantized, loaded):
        assert sqnr(MODEL(more), model(more)) > 20
        inside = ways_of(model.experts).inside
        assert sqnr(MODEL.experts(more, 0.7), inside(more, 0.7)) > 25
    assert torch.equal(loaded(more), quantized(more))
    before, after = (sum(t.numel() for t in held(each)) for each in (quantized, loaded))
    assert before == after
