"""Random numbers of Python and numpy in forward are those of the capture: a warning names the line.

Unless they decide nothing, or are drawn from a generator that forward seeds.
"""

from __future__ import annotations

import random
import warnings
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from random import random as draw
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import rand
from torch import Tensor, nn

import qfx
from qfx.capture.capture import BY_DRAW, capture
from tests.cases.flow import randn, seeded

X = randn(2, 3)
OWN, LEGACY, MODERN = random.Random(3), np.random.RandomState(3), np.random.default_rng(3)


class Net(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(3, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.linear(x))


def shuffled(y: Tensor) -> Tensor:
    order = list(range(200))
    random.shuffle(order)
    return y * (order[0] + 1)


def seeding(y: Tensor) -> Tensor:
    random.seed(5)
    np.random.seed(5)
    return y * random.random() * random.randint(1, 9) * np.random.rand()


TELLING: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "random": (lambda y: y * random.random(), "random.random()"),
    "imported": (lambda y: y * draw(), "random.random()"),
    "branch": (lambda y: y * 2 if random.random() < 1e-6 else y, "random.random()"),
    "uniform": (lambda y: y * random.uniform(1, 2), "random.random()"),
    "gauss": (lambda y: y * random.gauss(0, 1), "random.random()"),
    "coin": (lambda y: y * random.choice([1, 2]), "random.getrandbits()"),
    "randint": (lambda y: y * random.randint(1, 2), "random.getrandbits()"),
    "shuffle": (shuffled, "random.getrandbits()"),
    "beside another": (lambda y: y * random.random() * random.Random(4).random(), "random()"),
    "generator": (lambda y: y * OWN.random(), "random.random()"),
    "numpy": (lambda y: y * float(np.random.rand()), "numpy.random.rand()"),
    "numpy imported": (lambda y: y + torch.from_numpy(rand(3)).float(), "numpy.random.rand()"),
    "numpy uniform": (lambda y: y * 2 if np.random.uniform(2, 3) < 2.1 else y, "uniform()"),
    "numpy normal": (lambda y: y * np.random.randn(), "numpy.random.randn()"),
    "numpy choice": (lambda y: y * int(np.random.choice(9) + 1), "numpy.random.choice()"),
    "new generator": (lambda y: y * np.random.default_rng().random(), "default_rng()"),
}
UNSEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "legacy": lambda y: y * float(LEGACY.rand()),
    "modern": lambda y: y * float(MODERN.random()),
}
IDLE: dict[str, Callable[[Tensor], Tensor]] = {
    "not used": lambda y: y * 2 if random.random() < 0 else y,
    "numpy, not used": lambda y: y * 2 if np.random.uniform(0, 1) > 1 else y,
    "seeded": seeding,
    "own seeded": lambda y: y * random.Random(4).random(),
    "new seeded generator": lambda y: y * float(np.random.default_rng(2).random()),
    "none": lambda y: y,
    "of torch": lambda y: y * torch.rand(1),
}


@pytest.mark.sweep(first=7)
@pytest.mark.parametrize("name", TELLING)
def test_a_draw_is_told_with_its_line(name: str) -> None:
    function, call = TELLING[name]
    with pytest.warns(qfx.QfxWarning, match=r"at test_draws.py:\d+; a graph draws none") as told:
        quantized = qfx.quantize(seeded(lambda: Net(function)), X, backend="reference")
    assert any(call in str(w.message) for w in told)
    assert call in str(quantized.report)


def test_two_runs_that_draw_almost_the_same_are_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """By chance; the third draws something else."""
    drawn = iter([0.5, 0.9, 0.501])

    class Generator:
        def random(self) -> float:
            return next(drawn, 0.7)

    def default_rng() -> Generator:
        return Generator()

    monkeypatch.setattr(np.random, "default_rng", default_rng)
    model = Net(lambda y: y * np.random.default_rng().random()).eval()
    assert any("default_rng()" in line for line in capture(model, (X,)).meta[BY_DRAW])


@pytest.mark.parametrize("name", UNSEEN)
def test_what_differs_from_run_to_run_is_told(name: str) -> None:
    found = capture(Net(UNSEEN[name]).eval(), (X,)).meta[BY_DRAW]
    assert found == ("something that tracing can't see",)


class MadeInForward(nn.Module):
    """Returns a class of which there is another in every call."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        return namedtuple("Out", "y")(self.fc(x))


class DataclassMadeInForward(MadeInForward):
    def forward(self, x: Tensor) -> Any:
        @dataclass
        class Out:
            y: Tensor

        return Out(self.fc(x))


@pytest.mark.parametrize("kind", [MadeInForward, DataclassMadeInForward])
def test_a_class_that_forward_makes_is_no_draw(kind: type[nn.Module]) -> None:
    model, x = seeded(kind), torch.randn(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantized = qfx.quantize(model, x, backend="reference")
    assert type(quantized(x)).__name__ == "Out"
    assert torch.allclose(quantized(x).y, model(x).y, atol=0.1)


@pytest.mark.parametrize("name", IDLE)
def test_what_decides_nothing_is_not(name: str) -> None:
    assert capture(Net(IDLE[name]).eval(), (X,)).meta[BY_DRAW] == ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qfx.quantize(seeded(lambda: Net(IDLE[name])), X, backend="reference")


def test_generators_are_as_they_were() -> None:
    functions = random.random, random.getrandbits, random.seed, np.random.rand, np.random.seed
    before, of_numpy = random.getstate(), np.random.get_state()[1]
    own = dict(vars(random.Random)), dict(vars(random.SystemRandom))
    for function, _ in TELLING.values():
        capture(Net(function).eval(), (X,))
    now = random.random, random.getrandbits, random.seed, np.random.rand, np.random.seed
    assert now == functions
    assert (dict(vars(random.Random)), dict(vars(random.SystemRandom))) == own
    assert random.getstate() == before
    assert (np.random.get_state()[1] == of_numpy).all()
