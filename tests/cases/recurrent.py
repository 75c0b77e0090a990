"""Layers, states and checks that tests of recurrent layers use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import qfx
from tests.cases.flow import less_a_bit, randn, run, sqnr, tensors

BACKENDS = ("x86", "fbgemm", "qnnpack", "reference")


LAYERS: dict[str, type[nn.Module]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


AGREE = 43.0
"""Decibels between the kernels and the reference form: the same codes, but for ties; and where
small layers run in float on int8 weights, what rounding inputs to 8 bits makes in the reference."""


class Wrapped(nn.Module):
    """A layer whose results are read in part, with a linear layer behind."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        y, state = self.layer(x)
        return self.head(y), state


def state_of(kind: str, *shape: int) -> Any:
    h, c = randn(*shape, seed=1).tanh(), randn(*shape, seed=2)
    return (h, c) if kind == "lstm" else h


def check(model: nn.Module, qmodel: qfx.QuantizedModel, *args: Any, bound: float = 30.0) -> None:
    """Structure, shapes and values: near float, and as the reference form."""
    check_results(*(run(m, args) for m in (model, qmodel, qmodel.reference)), qmodel, bound)


def check_results(
    expected: Any, actual: Any, meant: Any, qmodel: qfx.QuantizedModel, bound: float = 30.0
) -> None:
    assert pytree.tree_structure(actual) == pytree.tree_structure(expected)
    for ours, theirs in zip(tensors(actual), tensors(expected), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, torch.float32)
        assert sqnr(theirs, ours) > bound
    assert sqnr(meant, actual) > less_a_bit(AGREE, qmodel.backend)


def dynamic(model: nn.Module, *args: Any, backend: str = "x86", **options: Any) -> Any:
    return qfx.quantize(model, args, method="dynamic", backend=backend, **options)


def has_kernel(kind: str, backend: str) -> bool:
    return kind != "rnn" or backend in ("x86", "reference")
