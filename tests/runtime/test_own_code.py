"""A process compiles as many models as it likes: ``torch.compile`` counts each for itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import qfx
from qfx.runtime.own_code import with_own_code

X = torch.randn(2, 8)


@pytest.fixture(autouse=True)
def a_limit_of_one() -> Iterator[None]:
    with torch._dynamo.config.patch(recompile_limit=1):
        yield


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))


def _compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager", fullgraph=True)


@pytest.mark.slow
def test_many_quantized_models_compile() -> None:
    for _ in range(3):
        model = qfx.quantize(_model().eval(), X, backend="reference")
        assert torch.equal(_compiled(model)(X), model(X))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch warns of itself
def test_many_models_in_training_compile() -> None:
    for _ in range(2):  # one more than the limit: these take long to compile
        model = qfx.prepare(nn.Linear(8, 8).train(), X, method="qat")
        compiled = _compiled(model)(X)
        assert torch.equal(compiled, model(X))


def test_what_is_copied_is_all_but_the_code_object() -> None:
    added = 3

    def function(first: int, second: int = 2, *, third: int = 4) -> tuple[int, ...]:
        return first, second, third, added

    own = with_own_code(function)
    assert own.__code__ is not function.__code__
    assert own(1) == function(1) == (1, 2, 4, 3)
