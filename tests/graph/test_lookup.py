"""Qualified names are looked up as getattr does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qfx.graph.lookup import Lookup, attribute_of


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(1, 1), nn.BatchNorm1d(1)])
        self.table = {"plain": 1}
        self.constant = torch.ones(1)


MODEL = Model()


def test_modules_parameters_buffers_and_attributes() -> None:
    lookup = Lookup(MODEL)
    assert lookup.get("layers.0") is MODEL.layers[0]
    assert lookup.get("layers.0.weight") is MODEL.layers[0].weight
    assert lookup.get("layers.1.running_mean") is MODEL.layers[1].running_mean
    assert lookup.get("table") is MODEL.table
    assert lookup.get("constant") is MODEL.constant


def test_what_is_missing_is_none() -> None:
    lookup = Lookup(MODEL)
    assert lookup.get("layers.2.weight") is None
    assert lookup.get("nothing.at.all") is None


def test_every_step_counts_as_used() -> None:
    lookup = Lookup(MODEL)
    lookup.get("layers.0.weight")
    steps = {(id(MODEL), "layers"), (id(MODEL.layers), "0"), (id(MODEL.layers[0]), "weight")}
    assert lookup.used == steps


def test_a_single_name_is_looked_up_as_attrgetter_does() -> None:
    assert attribute_of(MODEL, "layers.0.weight") is MODEL.layers[0].weight
    assert attribute_of(MODEL, "table") is MODEL.table
    with pytest.raises(AttributeError, match="'Linear' object has no attribute 'absent'"):
        attribute_of(MODEL, "layers.0.absent")
