"""Autocast of any device is off while qfx works, and afterwards as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx.caller_modes import undisturbed, without_autocast
from qfx.capture.capture import capture

TYPES = ("cpu", "cuda", "xpu", "mps", "privateuseone")
X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
IS_ON = [torch.is_autocast_enabled]  # itself: capture puts another in its place


def enabled() -> list[str]:
    return [name for name in TYPES if IS_ON[0](name)]


class Looks(nn.Module):
    """Writes down for which devices autocast is on whenever it runs."""

    seen: list[str]

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        seen.extend(enabled())
        return self.linear(x)


seen: list[str] = []


class Sees(qfx.Pass):
    name = "sees"

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        seen.extend(enabled())


@pytest.fixture(params=[("cpu",), ("cuda",), ("mps", "xpu"), TYPES], ids=" ".join)
def switched_on(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    seen.clear()
    for name in request.param:
        torch.set_autocast_enabled(name, True)
    yield list(request.param)
    for name in request.param:
        torch.set_autocast_enabled(name, False)


def model() -> nn.Module:
    return Looks().eval()


def quantize() -> Any:
    return qfx.quantize(model(), X, pipeline=qfx.pipelines.static().insert_after("lower", Sees()))


def in_steps() -> Any:
    prepared = qfx.prepare(model(), X, backend="reference")
    return qfx.convert(qfx.calibrate(prepared, [X]))


def run_passes() -> Any:
    return qfx.run_passes(model(), [Sees()], X)[0]


@pytest.mark.sweep
@pytest.mark.parametrize("call", [quantize, in_steps, run_passes, lambda: capture(model(), (X,))])
def test_off_inside_and_on_afterwards(call: Callable[[], Any], switched_on: list[str]) -> None:
    made = call()
    assert seen == []
    assert sorted(enabled()) == sorted(switched_on)
    with without_autocast():
        assert made(X).dtype == torch.float32
        torch.testing.assert_close(made(X), model()(X), atol=0.05, rtol=0)


def test_on_afterwards_when_it_fails(switched_on: list[str]) -> None:
    with pytest.raises(qfx.ConfigError):
        qfx.quantize(model().train(), X)
    assert sorted(enabled()) == sorted(switched_on)


def test_training_autocasts_where_the_user_says_so(switched_on: list[str]) -> None:
    prepared = qfx.prepare(model().train(), X, method="qat", backend="reference")
    assert seen == []
    with without_autocast():
        prepared(X)
    qmodel = qfx.convert(prepared)
    assert sorted(enabled()) == sorted(switched_on)
    with without_autocast():
        torch.testing.assert_close(qmodel(X), model()(X), atol=0.05, rtol=0)


def test_decorates_and_leaves_inference_mode() -> None:
    @undisturbed()
    def call() -> bool:
        return torch.is_inference_mode_enabled()

    with torch.inference_mode():
        assert call() is False
        assert torch.is_inference_mode_enabled()


def test_a_device_that_this_torch_does_not_know_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qfx.caller_modes._DEVICE_TYPES", ("nope", "cpu"))
    torch.set_autocast_enabled("cpu", True)
    with without_autocast():
        assert enabled() == []
    assert enabled() == ["cpu"]
    torch.set_autocast_enabled("cpu", False)
