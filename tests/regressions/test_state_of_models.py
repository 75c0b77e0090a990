"""What forward remembers: calibration does not count, and what a graph can't do is said."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

import qfx

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return self.linear(x) + 10 * self.calls


class CountsByOperator(Counts):
    """Sets the buffer to what it is already, which no warning is about."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x) + 10 * self.calls


class Outer(nn.Module):
    """Counts in a module that stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.linear = Counts(), nn.Linear(4, 4)
        self.inner.register_forward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.linear(x))


@pytest.mark.parametrize("kind", [Counts, CountsByOperator, Outer])
@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_calibration_does_not_count(kind: type[nn.Module], method: str) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    data = [X] * 5 if method == "static" else None
    qmodel = qfx.quantize(model, X, method=method, calibration_data=data, backend="reference")
    for _ in range(3):
        torch.testing.assert_close(qmodel(X), model(X), atol=0.2, rtol=0)


def test_a_loop_of_ones_own_does_not_count_either() -> None:
    model = Counts().eval()
    prepared = qfx.prepare(model, X, backend="reference")
    for _ in range(4):
        prepared(X)
    qmodel = qfx.convert(prepared)
    assert prepared.calls == 4, "convert leaves prepared as it is"
    assert qmodel.calls == 0 == model.calls
    assert copy.deepcopy(qmodel).calls == 0


class Rebinds(Counts):
    def __init__(self) -> None:
        super().__init__()
        self.number, self.same = 0, "same"

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.number += 1
        self.same = self.same
        self.stash = self.linear(x)  # new: nothing read it before
        return self.stash


def test_attributes_that_forward_sets_are_warned_of() -> None:
    model = nn.Sequential()
    model.add_module("m", Rebinds())
    with pytest.warns(qfx.QfxWarning, match=r"forward sets m\.number, m\.calls, and a graph"):
        report = qfx.quantize(model.eval(), X, backend="reference").report
    assert any("m.number" in text for text in report.warnings)
    assert model.m.calls == 0


def test_nothing_is_said_of_models_that_set_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qfx.quantize(Counts().eval(), X, backend="reference")
