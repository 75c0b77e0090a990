"""Hooks of transformers that record outputs, left behind by any forward, made stages opaque."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded, sqnr

X = randn(2, 3, 8, 8)


class Collector:
    """As transformers' own: hooks hand what they see to the one that is active, if any is."""

    active: list[Tensor] | None = None


def install(module: nn.Module) -> None:
    """A hook of the form that transformers installs, and under its name."""

    def output_capturing_hook(module: nn.Module, args: object, output: Tensor) -> None:
        if Collector.active is None:
            return
        Collector.active.append(output)

    output_capturing_hook.__module__ = "transformers.utils.output_capturing"
    module.register_forward_hook(output_capturing_hook)


class Stage(nn.Module):
    def __init__(self, inside: int) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(inside, 4, 3, padding=1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Stages(nn.Module):
    def __init__(self, *, collects: bool) -> None:
        super().__init__()
        self.collects = collects
        self.stages = nn.ModuleList([Stage(3), Stage(4)])
        self.head = nn.Conv2d(4, 2, 1)
        for module in (*self.stages, self.head):
            install(module)

    def forward(self, x: Tensor) -> list[Tensor]:
        Collector.active = collected = [] if self.collects else None
        try:
            for stage in self.stages:
                x = stage(x)
            return [self.head(x), *(collected or [])]
        finally:
            Collector.active = None


@pytest.mark.sweep
@pytest.mark.parametrize("collects", [False, True])
@pytest.mark.parametrize("method", ["static", "dynamic", "weight_only"])
def test_recorders_are_traced_through(collects: bool, method: str) -> None:
    model = seeded(lambda: Stages(collects=collects))
    hooks = [len(m._forward_hooks) for m in model.modules()]
    made = qfx.quantize(model, X, method=method, backend="reference")
    with torch.no_grad():
        results = list(zip(model(X), made(X), strict=True))
    assert len(results) == (4 if collects else 1)
    assert all(sqnr(expected, got) > 20 for expected, got in results)
    assert made.report.coverage == 1
    assert [len(m._forward_hooks) for m in model.modules()] == hooks


def test_other_hooks_keep_their_module_whole() -> None:
    model = seeded(lambda: Stages(collects=False))
    model.stages[0].register_forward_hook(lambda module, args, output: output * 2)
    made = qfx.quantize(model, X, backend="reference")
    (opaque,) = [s for s in made.report.sites if s.reason == "opaque-module"]
    assert opaque.module_path == "stages.0"
    assert "the module has hooks" in opaque.message
    assert opaque.remedy.endswith("remove the hook")
    with torch.no_grad():
        assert sqnr(model(X)[0], made(X)[0]) > 20
