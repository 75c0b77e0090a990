"""Which parts of a model become regions, and why others do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qfx.capture.regions.plan import RegionPlan, plan
from qfx.errors import CaptureError, ConfigError


class Around(nn.Module):
    """Calls a part as ``call`` does, and can't be captured itself."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.last = part, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.call(x)) if x.sum() != 0 else x

    def call(self, x: Tensor) -> Tensor:
        return self.part(x)


def planned(model: nn.Module, x: Tensor | None = None) -> RegionPlan:
    args = (torch.randn(3, 4) if x is None else x,)
    return plan(model.eval(), args, {}, whole=CaptureError("it branches. What to do: nothing"))


def names(found: RegionPlan) -> list[str]:
    return [region.path for region in found.regions]


def test_the_largest_parts_are_taken() -> None:
    found = planned(Around(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))))
    assert names(found) == ["part", "last"]
    assert [region.why for region in found.regions] == [("", "it branches")] * 2


def test_origins_name_modules_of_the_whole() -> None:
    found = planned(Around(nn.Sequential(nn.Linear(4, 4), nn.ReLU())))
    (way,) = found.regions[0].ways
    paths = {n.meta["qfx.origins"][0].module_path for n in way.captured.graph.nodes
             if n.op == "call_module"}  # fmt: skip
    assert paths == {"part.0", "part.1"}


def test_a_shared_layer_is_one_region() -> None:
    layer = nn.Linear(4, 4)
    model = Around(layer)
    model.last = layer
    found = planned(model)
    assert names(found) == ["part"]
    assert found.regions[0].calls == 2


class OfTwoRanks(Around):
    def call(self, x: Tensor) -> Tensor:
        return self.part(x) + self.part(x[0])


class ByRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) if x.dim() == 1 else self.first(x).relu()


def test_a_part_that_is_called_in_two_ways_has_two_graphs() -> None:
    found = planned(OfTwoRanks(ByRank()))
    assert names(found) == ["part", "last"]
    assert [name for name, _ in found.regions[0].named()] == ["part", "part#2"]
    assert [way.call.args[0].dim() for way in found.regions[0].ways] == [2, 1]
    assert sorted(found.regions[0].forms.values()) == [0, 1]


class BySize(ByRank):
    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) if x.shape[0] == 3 else self.first(x).relu()


class OfTwoSizes(Around):
    def call(self, x: Tensor) -> Tensor:
        return self.part(x) + self.part(x[:1])


def test_a_part_that_decides_by_size_is_split() -> None:
    found = planned(OfTwoSizes(BySize()))
    assert names(found) == ["part.first", "last"]
    around, why = found.regions[0].why
    assert around == "part"
    assert "in another of its calls" in why


class WritesToView(Around):
    """Writes to what it gets back, and reads what it gave."""

    def call(self, x: Tensor) -> Tensor:
        given = x.clone()
        self.part(given)[0].add_(1)
        return given


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.view(-1), self.layer(x)


def test_what_shares_memory_with_its_arguments_is_split() -> None:
    found = planned(WritesToView(Views()))
    assert names(found) == ["part.layer", "last"]
    assert "shares memory" in found.regions[0].why[1]


class CallsMethod(Around):
    def call(self, x: Tensor) -> Tensor:
        return self.part.encode(x)  # type: ignore[operator]


class Encodes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def encode(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_a_part_that_is_used_by_a_method_gives_its_children() -> None:
    assert names(planned(CallsMethod(Encodes()))) == ["part.layer", "last"]


class Unused(Around):
    def call(self, x: Tensor) -> Tensor:
        return x


def test_layers_in_no_region_are_listed() -> None:
    found = planned(Unused(nn.Linear(4, 4)))
    assert names(found) == ["last"]
    assert [(each.path, each.why) for each in found.left] == [
        ("part", "it is not called on the example inputs")
    ]


def test_a_model_without_any_part_is_refused_as_before() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight if x.sum() > 0 else x

    with pytest.raises(CaptureError, match="it branches"):
        planned(Bare())


def test_a_model_that_raises_says_so() -> None:
    with pytest.raises(ConfigError, match="the model raises on the example inputs: RuntimeError"):
        planned(Around(nn.Linear(5, 4)))


class Counted(nn.Linear):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Counted.calls += type(x) is Tensor
        return super().forward(x)


class Loops(nn.Module):
    """Calls two parts again and again, with other sizes, until data says so."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Sequential(Counted(4, 4), nn.ReLU()) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for rows in range(2, 8):
            x = torch.cat([self.second(self.first(x)), x[:1]])[:rows]
            if x.sum() == 0:
                break
        return x


def test_planning_runs_the_model_five_times_at_most() -> None:
    model, x = Loops().eval(), torch.randn(3, 4)
    Counted.calls = 0
    model(x)
    run, Counted.calls = Counted.calls, 0
    assert names(planned(model, x)) == ["first", "second"]
    assert Counted.calls <= 5 * run
