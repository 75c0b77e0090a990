"""A graph module in the place of a module is taken for it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import fx, nn

from qfx.capture.capture import capture
from qfx.errors import CaptureError
from qfx.graph.in_place import hand_on_place, place_of, take_place
from tests.cases.regions import Block


def placed() -> fx.GraphModule:
    block = Block(3, 8).eval()
    made = capture(block, (torch.randn(1, 3, 4, 4),))
    take_place(made, place_of(block))
    return made


def test_class_attributes_properties_and_methods() -> None:
    made = placed()
    assert isinstance(made, Block)
    assert isinstance(made, fx.GraphModule)
    assert (made.out_channels, made.doubled) == (8, 16)


def test_tensors_of_the_module_are_not_there() -> None:
    layer = nn.Linear(3, 4)
    made = capture(nn.Sequential(layer), (torch.randn(2, 3),))
    take_place(made, place_of(layer))
    with pytest.raises(CaptureError, match="'weight' of this Linear is a part of a captured"):
        _ = made.weight
    with pytest.raises(CaptureError):  # which would be taken for an answer
        hasattr(made, "bias")
    assert not hasattr(made, "nothing")


class OfConfig(nn.Module):
    """Hands out what its config holds."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.config, self.kept = nn.Linear(3, 4), {"alpha": 3}, [torch.ones(1)]

    def __getattr__(self, name: str) -> object:
        config = self.__dict__.get("config", {})
        return config[name] if name in config else super().__getattr__(name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_attributes_are_copies_and_its_own_lookup_is_asked() -> None:
    model = OfConfig()
    made = capture(model, (torch.randn(2, 3),))
    take_place(made, place_of(model))
    assert made.alpha == 3
    made.config["alpha"] = 5
    assert model.config["alpha"] == 3
    with pytest.raises(CaptureError, match="'kept'"):
        _ = made.kept


def test_it_runs_and_compiles_anew() -> None:
    made, x = placed(), torch.randn(2, 3, 4, 4)
    before = made(x)
    made.recompile()
    assert torch.equal(made(x), before)


def test_a_place_is_handed_on() -> None:
    made, other = placed(), capture(Block(3, 8).eval(), (torch.randn(1, 3, 4, 4),))
    hand_on_place(other, copy.deepcopy(other))  # which has none: nothing happens
    hand_on_place(made, other)
    assert isinstance(other, Block)
    assert place_of(other) == place_of(made)
