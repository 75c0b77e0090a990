"""Passes as authors write them: decorated as dataclasses, or with an __init__ that can't work."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import fx, nn

import qfx


@dataclasses.dataclass(frozen=True)
class Decorated(qfx.Pass):
    name = "decorated"
    k: int = 3
    names: tuple[str, ...] = ()
    seen: list[str] = dataclasses.field(default_factory=list)
    last: int = 0

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        self.seen.append(f"k={self.k}")


@dataclasses.dataclass(frozen=True)
class Derived(Decorated):
    name = "derived"
    more: int = 1


def test_a_decorated_pass_works() -> None:
    step = Decorated(k=5)
    qfx.run_passes(nn.Linear(2, 2), [step, Derived(k=7, more=2)], torch.randn(1, 2))
    assert step.seen == ["k=5"]
    assert str(Decorated(k=5)) == "decorated{k=5}"
    assert str(Decorated()) == "decorated"
    assert str(Derived(more=2)) == "derived{more=2}"
    assert Decorated(k=5) == Decorated(k=5) != Decorated()
    assert Decorated().seen is not Decorated().seen
    pipeline = qfx.pipelines.static().insert_after("canonicalize", Decorated(k=7))
    assert "decorated{k=7}" in str(pipeline)


def test_a_pass_stays_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Decorated().k = 4  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del Decorated().k


class WithInit(qfx.Pass):
    name = "with-init"

    def __init__(self, k: int = 3) -> None:
        self.k = k


def test_an_init_that_sets_attributes_says_what_to_write() -> None:
    with pytest.raises(qfx.ConfigError, match=r"WithInit sets 'k'.*`k: int = 5`.*no __init__"):
        WithInit(5)
