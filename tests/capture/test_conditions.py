"""``torch.cond`` in a model, after whose capture it raised wherever it was called.

Torch's compiler, by which it runs, marks what is first called under a mode that it doesn't know as
never to be compiled. Its branches were no branches to tracing, either.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx.torch_private import compiler_resting
from tests.cases.flow import randn, seeded, sqnr

X = randn(2, 8)


def chosen(pred: Any, x: Tensor) -> Tensor:
    taken: Tensor = torch.cond(pred, lambda y: y.sin(), lambda y: y.cos(), (x,))
    return taken


@fx.wrap
def opaque(x: Tensor, y: Tensor) -> Tensor:
    """A function that is not looked into."""
    return chosen(x.sum() > 0, y)


class Chooses(nn.Module):
    """A choice between layers."""

    def __init__(self, choose: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.choose = nn.Linear(8, 8), nn.Linear(8, 4), choose

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.choose(x, self.first(x)))
        return y


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "by data": lambda x, y: chosen(x.sum() > 0, y),
    "unseen": lambda x, y: opaque(x, y),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["static", "dynamic"])
@pytest.mark.parametrize("way", WAYS)
def test_a_choice_by_data_is_made_in_each_call(way: str, method: str) -> None:
    torch._dynamo.reset()
    model = seeded(lambda: Chooses(WAYS[way]))
    quantized = qfx.quantize(model, X, method=method, calibration_data=[X, -X])
    assert {s.decision for s in quantized.report.sites if s.op.lower() == "linear"} == {"quantized"}
    with torch.no_grad():
        for x in (X, -X):
            assert sqnr(model(x), quantized(x)) > 25
            assert chosen(x.sum() > 0, x).shape == x.shape


def test_a_choice_by_data_is_a_branch() -> None:
    model = seeded(lambda: Chooses(WAYS["by data"]))
    with pytest.raises(qfx.CaptureError, match="a branch that depends on the contents of a tensor"):
        qfx.quantize(model, X, regions="whole")


def test_a_choice_by_sizes_is_a_guard() -> None:
    model = seeded(lambda: Chooses(lambda x, y: chosen(x.shape[0] > 4, y)))
    quantized = qfx.quantize(model, X)
    assert sqnr(model(X[:1]), quantized(X[:1])) > 25
    with pytest.raises(qfx.ConfigError, match=r"test_conditions.py:\d+"):
        quantized(randn(5, 8))


@pytest.mark.slow
def test_what_is_compiled_stays_so() -> None:
    torch._dynamo.reset()
    made: list[fx.GraphModule] = []

    def backend(graph_module: fx.GraphModule, _: object) -> Callable[..., Any]:
        made.append(graph_module)
        return graph_module.forward

    @torch.compile(backend=backend, dynamic=False)
    def compiled(x: Tensor) -> Tensor:
        return x.sin() if x.shape[0] > 1 else x.cos()

    globals()["compiled_opaque"] = compiled
    model = seeded(lambda: Chooses(lambda x, y: compiled_opaque(y)))
    qfx.quantize(model, X)
    before = len(made)
    compiled(randn(7, 8))
    assert len(made) == before + 1


def compiled_opaque(x: Tensor) -> Tensor:
    raise NotImplementedError


fx.wrap("compiled_opaque")


@pytest.mark.slow
def test_the_compiler_is_as_it_was_for_all_threads() -> None:
    counted: list[int] = []

    def backend(graph_module: fx.GraphModule, _: object) -> Callable[..., Any]:
        counted.append(1)
        return graph_module.forward

    compiled = torch.compile(torch.sin, backend=backend)
    first, second = compiler_resting(), compiler_resting()
    with first:
        beside = threading.Thread(target=second.__enter__)
        beside.start()
        beside.join()
        compiled(X)
    assert counted == []  # the other is not done
    second.__exit__(None, None, None)
    compiled(X)
    assert counted == [1]
