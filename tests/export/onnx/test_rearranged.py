"""Chains of what only rearranges codes: written without rounding in between, and where not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from qfx import vocab
from qfx.export.onnx.rearranged import is_within
from tests.support.onnx import export, quantized

pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")


class Shuffled(nn.Module):
    """Channels of one convolution shuffled for the next."""

    def __init__(self, *, shown: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.shown = shown

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = torch.relu(self.first(x))
        n, c, h, w = y.shape
        halves = y.view(n, 2, c // 2, h, w).transpose(1, 2)
        made = self.second(halves.contiguous().view(n, c, h, w))
        return (made, halves + 1.0) if self.shown else (made,)


def noise() -> Tensor:
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_nothing_is_rounded_within_a_chain() -> None:
    exported = export(Shuffled(), noise())
    operators = exported.file.operators
    assert operators["QuantizeLinear"] == 4  # input and output, and both ends of the chain
    assert operators["Transpose"] == 1
    assert exported.check.sqnr > 40


def pairs_within(graph_module: fx.GraphModule) -> list[str]:
    nodes = graph_module.graph.nodes
    return [node.name for node in nodes if vocab.is_op(node, vocab.DEQUANTIZE) and is_within(node)]


def test_what_something_else_reads_ends_a_chain() -> None:
    whole = pairs_within(quantized(Shuffled(), noise()).reference)
    shown = pairs_within(quantized(Shuffled(shown=True), noise()).reference)
    assert len(whole) == 3
    assert len(shown) == 2


def test_another_scale_is_rounded_to() -> None:
    reference = quantized(Shuffled(), noise()).reference
    view = next(n for n in reference.graph.nodes if vocab.is_op(n, vocab.RESHAPE))
    (rounded,) = view.users
    for node in (rounded, *rounded.users):
        node.update_arg(1, 0.5)
    assert len(pairs_within(reference)) == 1  # none before it and behind it
