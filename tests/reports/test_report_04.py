"""Functions and modules compiled by TorchScript broke capture; now they stay as they are."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.graph.clone import deep_copy
from tests.cases.flow import randn, seeded, sqnr, tensors


@contextmanager
def deprecated() -> Iterator[None]:
    """TorchScript is a DeprecationWarning, from torch 2.14 on a FutureWarning."""
    with warnings.catch_warnings():
        for each in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", each)
        yield


@deprecated()
def script(made_from: Any) -> Any:
    return torch.jit.script(made_from)


X, OTHER = randn(2, 3, 8, 8), randn(3, 3, 9, 9, seed=1)


@script
def swish(x: Tensor, scale: float = 2.0) -> Tensor:
    return x * torch.sigmoid(x) * scale


@script
def add_into(x: Tensor, y: Tensor) -> None:
    x.add_(y)


@script
def rows(x: Tensor) -> int:
    return x.shape[0]


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)


class Function(Blocks):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(swish(self.first(x), scale=1.5))


class InPlace(Blocks):
    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        add_into(y, y.sigmoid())
        return self.second(y)


class Number(Blocks):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).reshape(rows(x), -1)


def traced() -> nn.Module:
    inner = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()).eval()
    with deprecated():
        inner = torch.jit.trace(inner, randn(1, 8, 4, 4))
    return nn.Sequential(nn.Conv2d(3, 8, 3), inner, nn.Conv2d(8, 8, 3))


def scripted() -> nn.Module:
    inner = script(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()).eval())
    return nn.Sequential(nn.Conv2d(3, 8, 3), inner, nn.Conv2d(8, 8, 3))


MODELS = (Function, InPlace, Number, traced, scripted)


@torch.no_grad()
def check(model: nn.Module, made: nn.Module) -> None:
    for x in (X, OTHER):
        for expected, got in zip(tensors(model(x)), tensors(made(x)), strict=True):
            assert sqnr(expected, got) > 22


class All(nn.Module):
    """Every one of them on the same input."""

    def __init__(self) -> None:
        super().__init__()
        self.models = nn.ModuleList(seeded(make) for make in MODELS)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [model(x) for model in self.models]


@pytest.mark.parametrize("backend", ["reference", "x86", "fbgemm", "qnnpack"])
def test_what_is_around_is_quantized(backend: str) -> None:
    if backend not in qfx.backends.available():
        pytest.skip(f"no {backend} here")
    model = All().eval()
    made = qfx.quantize(model, X, calibration_data=[X, OTHER], backend=backend)
    check(model, made)
    convs = [s.decision for s in made.report.sites if s.op == "Conv2d"]
    assert convs == ["quantized"] * 2 * len(MODELS)


@pytest.mark.parametrize("method", ["dynamic", "weight_only"])
def test_other_methods(method: str) -> None:
    model = All().eval()
    check(model, qfx.quantize(model, X, method=method, backend="reference"))


def test_the_report_says_why() -> None:
    (site,) = (
        s
        for s in qfx.quantize(seeded(Function), X, backend="reference").report.sites
        if s.decision == "float"
    )
    assert (site.op, site.reason) == ("swish", "opaque-function")
    assert "swish is compiled by TorchScript" in site.message
    assert site.remedy.endswith("call the Python function that it was made from")
    report = qfx.quantize(seeded(scripted), X, backend="reference").report
    assert [s.reason for s in report.sites] == ["", "opaque-module", ""]
    assert "the module is compiled by TorchScript" in str(report)


def test_training_goes_on_in_compiled_modules() -> None:
    model = seeded(scripted)
    prepared = qfx.prepare(model, X, method="qat", backend="reference").train()
    prepared(X).square().mean().backward()
    assert all(p.grad is not None for p in prepared.parameters())
    assert all(p.grad is None for p in model.parameters())
    check(model, qfx.convert(prepared))


def test_copies_have_leaves() -> None:
    model = seeded(scripted)
    for parameter in model[1].parameters():
        parameter.requires_grad_(False)
    copied = deep_copy(model, {})
    assert [p.requires_grad for p in copied.parameters()] == [True, True, False, False, True, True]
    assert all(p.is_leaf for p in copied.parameters())


@pytest.mark.parametrize("make", [scripted, traced])
@pytest.mark.parametrize("method", ["static", "qat"])
def test_a_whole_model_is_refused_by_name(make: Callable[[], nn.Module], method: str) -> None:
    model = make()[1]
    with pytest.raises(qfx.CaptureError, match="compiled by TorchScript") as raised:
        qfx.prepare(model.eval(), randn(1, 8, 4, 4), method=method)
    assert re.match(r"the model is a \w+Module, ", str(raised.value))
    assert "pass the nn.Module that it was made from" in str(raised.value)
