"""A buffer that forward wrote and returned broke capture, and ``self.buf.data = ...`` was lost."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.capture.capture import capture
from tests.cases.flow import randn, seeded, tensors

X = randn(2, 4)


class Keeps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("state", torch.zeros(2, 4))


class Returned(Keeps):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.linear(x) + self.state
        self.state.copy_(y)
        return y, self.state


class ViewReturned(Keeps):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.linear(x) + self.state
        self.state[:, :2] = y[:, :2]
        return y, self.state[:1]


class Data(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x) + self.state
        self.state.data = y
        return y


class DataInPlace(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x) + self.state
        self.state.data.copy_(y)
        return y


MODELS = (Returned, ViewReturned, Data, DataInPlace)


@torch.no_grad()
def check(model: nn.Module, made: nn.Module, tolerance: float) -> None:
    float_model = copy.deepcopy(model)
    for _ in range(3):
        for expected, got in zip(tensors(float_model(X)), tensors(made(X)), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)
    assert not model.state.any()  # type: ignore[operator]


@pytest.mark.parametrize("kind", MODELS)
def test_the_state_lives_on(kind: type[nn.Module]) -> None:
    model = seeded(kind)
    check(model, capture(model, (X,)), 1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = qfx.quantize(model, X, calibration_data=[X] * 3, backend="reference")
    check(model, made, 0.2)
    check(model, qfx.quantize(model, X, method="weight_only", backend="reference"), 0.1)


class Grows(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        self.state.data = torch.cat([self.state, x])
        return self.linear(x)


class OfAnIntermediate(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        y.data = x
        return y


@pytest.mark.parametrize("kind", [Grows, OfAnIntermediate])
def test_other_assignments_to_data_are_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(qfx.CaptureError, match=r"an assignment to \.data that does more") as raised:
        qfx.quantize(seeded(kind), X, backend="reference", regions="whole")
    assert "self.state.copy_(new)" in str(raised.value)


class Rebinds(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        self.state = self.linear(x) + self.state
        return self.state


class Fills(Keeps):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.cache: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        self.cache[1] = self.linear(x)
        return self.cache[1]


@pytest.mark.parametrize(("kind", "names"), [(Rebinds, "state"), (Fills, "seen, cache")])
def test_what_a_graph_can_not_remember_is_said(kind: type[nn.Module], names: str) -> None:
    with pytest.warns(qfx.QfxWarning, match=f"forward sets {names}, and a graph sets no"):
        qfx.quantize(seeded(kind), X, method="weight_only", backend="reference")
