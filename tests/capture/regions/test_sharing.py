"""Modules that are alike share what was captured of one, and keep their own weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qfx.capture.regions import several
from qfx.capture.regions.plan import RegionPlan, plan


class InTurn(nn.Module):
    """Calls layers one after the other until data says so."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if x.sum() > 1e9:
                break
            x = layer(x)
        return x


class Scaled(nn.Linear):
    """A layer of the user's own, with an attribute."""

    def __init__(self, scale: object = 2.0) -> None:
        super().__init__(4, 4)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


class ByFlag(nn.Linear):
    """Decides by the value of a buffer, which no graph shows."""

    def __init__(self, flag: bool) -> None:
        super().__init__(4, 4)
        self.register_buffer("flag", torch.tensor(flag))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu() if self.flag else super().forward(x)


class WithConstant(nn.Linear):
    """Makes a constant of its own, which its graph holds."""

    def __init__(self, first: int) -> None:
        super().__init__(4, 4)
        self.held = {"constant": torch.arange(first, first + 4.0)}

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.held["constant"]


def hooked() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_forward_hook(lambda module, args, result: result + module.bias)
    return layer


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The modules that are captured."""
    found: list[nn.Module] = []
    whole = several.capture

    def counted(module: nn.Module, *args: object, **options: object) -> object:
        found.append(module)
        return whole(module, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(several, "capture", counted)
    return found


def planned(layers: list[nn.Module]) -> RegionPlan:
    torch.manual_seed(0)
    return plan(InTurn(layers).eval(), (torch.randn(3, 4),), {}, whole="it branches")


def check_values(found: RegionPlan, layers: list[nn.Module]) -> None:
    x = torch.randn(5, 4)
    assert [region.path for region in found.regions] == [f"layers.{i}" for i in range(len(layers))]
    for region, layer in zip(found.regions, layers, strict=True):
        (way,) = region.ways
        torch.testing.assert_close(way.captured(x), layer(x))
        paths = {n.meta["qfx.origins"][0].module_path for n in way.captured.graph.nodes}
        assert paths - {""} == {region.path}


@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 4), Scaled])
def test_layers_that_are_alike_are_captured_once(
    make: Callable[[], nn.Module], captures: list[nn.Module]
) -> None:
    layers = [make() for _ in range(4)]
    check_values(planned(layers), layers)
    assert captures == layers[:1]


def test_graphs_that_are_shared_hold_copies_of_the_weights() -> None:
    layers: list[nn.Module] = [nn.Linear(4, 4) for _ in range(2)]
    second = planned(layers).regions[1].ways[0].captured
    with torch.no_grad():
        next(second.parameters()).zero_()
    assert layers[1].weight.abs().sum() > 0  # type: ignore[operator, union-attr]


@pytest.mark.parametrize(
    "layers",
    [
        [Scaled(2.0), Scaled(3.0)],
        [Scaled(2.0), Scaled(2)],
        [Scaled(0.0), Scaled(-0.0)],
        [nn.Linear(4, 4), nn.Linear(4, 4, bias=False)],
        [nn.Linear(4, 4), Scaled(1.0)],
        [ByFlag(True), ByFlag(False)],
        [WithConstant(0), WithConstant(1)],
        [hooked(), hooked()],
        [nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)],
    ],
    ids=lambda layers: type(layers[1]).__name__,
)
def test_layers_that_differ_are_captured_each(
    layers: list[nn.Module], captures: list[nn.Module]
) -> None:
    check_values(planned(layers), layers)
    assert captures == layers


class Branching(nn.Module):
    """Branches on data; if a buffer says so, that is."""

    def __init__(self, flag: bool | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        if flag is not None:
            self.register_buffer("flag", torch.tensor(flag))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        if "flag" in self._buffers and not self.flag:
            return y
        return y if y.sum() > 0 else -y


def test_layers_that_are_alike_are_refused_once(captures: list[nn.Module]) -> None:
    layers: list[nn.Module] = [Branching() for _ in range(3)]
    found = planned(layers)
    assert [region.path for region in found.regions] == [f"layers.{i}.layer" for i in range(3)]
    assert captures == [layers[0], layers[0].layer]
    assert {region.why[0]: region.why[1] for region in found.regions} == dict.fromkeys(
        ("layers.0", "layers.1", "layers.2"), found.regions[0].why[1]
    )


def test_what_weights_may_have_decided_speaks_against_no_other() -> None:
    found = planned([Branching(flag=True), Branching(flag=False)])
    assert [region.path for region in found.regions] == ["layers.0.layer", "layers.1"]
