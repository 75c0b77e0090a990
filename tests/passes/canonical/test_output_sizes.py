"""Transposed convolutions that are told the size that they are to yield."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx_passes.canonical.canonicalize import Canonicalize
from tests.cases.flow import randn, seeded, sqnr

SIZES: dict[str, Callable[[Tensor], list[int]]] = {
    "part of a shape": lambda x: x.shape[2:],
    "size": lambda x: x.size(),
    "list": lambda x: [x.shape[2], x.shape[3]],
}


class Up(nn.Module):
    def __init__(self, size: Callable[[Tensor], list[int]], stride: int = 2) -> None:
        super().__init__()
        self.down, self.size = nn.Conv2d(3, 8, 3, stride=stride, padding=1), size
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(self.down(x).relu(), output_size=self.size(x))
        return torch.cat([y, x], 1)


def canonical(model: nn.Module, x: Tensor) -> fx.GraphModule:
    return qfx.run_passes(model, [Canonicalize], x)[0]


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("name", SIZES)
def test_every_size_that_the_module_can_yield(name: str, stride: int) -> None:
    model = seeded(Up, SIZES[name], stride).eval()
    graph_module = canonical(model, randn(2, 3, 12, 12))
    assert any(node.target is vocab.CONV_TRANSPOSE2D for node in graph_module.graph.nodes)
    for height in range(10, 13):
        x = randn(1, 3, height, 2 * height + 1)
        torch.testing.assert_close(graph_module(x), model(x))


def test_the_graph() -> None:
    graph_module = canonical(seeded(Up, lambda x: (8, 8)).eval(), randn(1, 3, 8, 8))
    (up,) = graph_module.graph.find_nodes(op="call_function", target=vocab.CONV_TRANSPOSE2D)
    assert up.kwargs == {"stride": (2, 2), "padding": (1, 1), "output_padding": (1, 1)}
    (cut,) = graph_module.graph.find_nodes(op="call_function", target=vocab.GETITEM)
    assert cut.args == (up, (slice(None), slice(None), slice(None, 8), slice(None, 8)))


@pytest.mark.parametrize("size", [20, 5])
def test_a_size_that_the_module_refuses_is_refused(size: int) -> None:
    model = seeded(Up, lambda x: (8, 8)).eval()
    graph_module = canonical(model, randn(1, 3, 8, 8))
    with pytest.raises(ValueError, match="valid sizes range"):
        model(randn(1, 3, size, size))
    with pytest.raises(qfx.ConfigError, match="an output_size that up can yield"):
        graph_module(randn(1, 3, size, size))


@pytest.mark.parametrize("backend", sorted({"x86", "reference"} & set(qfx.backends.available())))
def test_it_is_quantized(backend: str) -> None:
    model, x = seeded(Up, lambda x: x.shape[-2:]).eval(), randn(2, 3, 12, 12)
    qmodel = qfx.quantize(model, x, backend=backend, min_coverage=1.0)
    other = randn(1, 3, 13, 10)
    assert sqnr(model(other), qmodel(other)) > 25


class Unbatched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = nn.ConvTranspose2d(3, 4, 2, stride=2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(x[0], output_size=(8, 8)))


def test_what_is_no_batch_stays_as_written() -> None:
    model, x = seeded(Unbatched).eval(), randn(1, 3, 4, 4)
    qmodel = qfx.quantize(model, x, backend="reference")
    assert "opaque-module" in str(qmodel.report)
    assert "not known to be a batch" in str(qmodel.report.explain("up"))
    assert sqnr(model(x), qmodel(x)) > 25
