"""Convolutions in front of what only selects of their results: they are rounded there, exactly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, fx, nn

from qfx import vocab
from qfx.export.onnx.forms import rounded_to
from tests.support.onnx import quantized, written

pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")


def noise(size: int = 14) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


class Ending(nn.Module):
    """What VGG ends with: whose ``pool`` averages nothing where features are of its size."""

    def __init__(self, *between: nn.Module, features: int = 8 * 49, shown: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.between, self.shown = nn.Sequential(*between), shown
        self.head = nn.Linear(features, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.between(torch.relu(self.conv(torch.relu(self.first(x)))))
        made = self.head(torch.flatten(y, 1))
        return (made, y + 1.0) if self.shown else (made,)


def vgg() -> Ending:
    return Ending(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(7))


@pytest.mark.parametrize("form", ["exact", "integer", "full_integer"])
def test_the_last_max_pool_compares_codes(form: str) -> None:
    """In the integer form the convolution was rounded in front of its ReLU, and pooled in float."""
    exported = written(quantized(vgg(), noise(), backend="x86"), noise(), form=form)
    assert exported.check.kernels["QuantizeLinear"] == 1  # the input: the rest stays in codes
    assert exported.check.integers["QLinearConv"] == 2
    assert "Relu" not in exported.file.operators
    assert exported.check.sqnr > 50


def conv_of(graph_module: fx.GraphModule) -> fx.Node:
    return [n for n in graph_module.graph.nodes if vocab.is_op(n, vocab.CONV2D)][-1]


def selections() -> Iterator[tuple[str, Ending, int]]:
    """Models, and the size of their images, whose last convolution is rounded further down."""
    yield "padded max pool", Ending(nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(7)), 14
    yield "adaptive max pool", Ending(nn.AdaptiveMaxPool2d(7)), 14
    yield "identity", Ending(nn.AdaptiveAvgPool2d(7)), 7
    yield "shuffle", Ending(nn.AdaptiveAvgPool2d(7), nn.PixelShuffle(2)), 7


@pytest.mark.parametrize(
    ("model", "size"), [pytest.param(m, size, id=name) for name, m, size in selections()]
)
def test_rounding_comes_before_what_selects(model: Ending, size: int) -> None:
    qmodel = quantized(model, noise(size), backend="x86")
    assert rounded_to(conv_of(qmodel.reference)) is not None
    exported = written(qmodel, noise(size), form="integer")
    assert exported.check.integers["QLinearConv"] == 2
    assert exported.check.sqnr > 50


def near_misses() -> Iterator[tuple[str, Ending, int]]:
    """The same, of which something else is made in between, or read."""
    yield "average", Ending(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(7)), 28
    yield "shown", Ending(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(7), shown=True), 14
    yield "one for all sizes", Ending(nn.MaxPool2d(8), nn.AdaptiveAvgPool2d(1), features=8), 8


@pytest.mark.parametrize(
    ("model", "size"), [pytest.param(m, size, id=name) for name, m, size in near_misses()]
)
def test_what_computes_is_not_passed(model: Ending, size: int) -> None:
    qmodel = quantized(model, noise(size), backend="x86")
    assert rounded_to(conv_of(qmodel.reference)) is None
    assert written(qmodel, noise(size), form="exact").check.sqnr > 50
