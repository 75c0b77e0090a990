"""How modules are called is recorded in one run of a copy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qfx.capture.regions.recording import MOST_KEPT, generates, record
from tests.cases.regions import Cache, Decoder


class Loop(nn.Module):
    """Calls one layer on more and more rows, and overwrites what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, times: int) -> Tensor:
        for step in range(times):
            rows = torch.ones(1 + step % 9, 4)
            y = self.layer(rows)
            rows.zero_()
        return x + y.sum()


def test_calls_are_counted_and_a_few_are_kept_the_largest_first() -> None:
    calls = record(Loop(), (torch.ones(2, 4), 20), {}).calls
    assert calls["layer"].count == 20
    assert calls["unused"].count == 0
    assert len(calls["layer"].kept) == MOST_KEPT + 1
    assert [tuple(c.args[0].shape) for c in calls["layer"].kept[:2]] == [(9, 4), (1, 4)]


def test_what_is_kept_is_what_was_given() -> None:
    calls = record(Loop(), (torch.ones(2, 4), 3), {}).calls
    assert all(bool(call.args[0].all()) for call in calls["layer"].kept)


def test_what_no_graph_takes_is_named() -> None:
    calls = record(Decoder().eval(), (torch.zeros(1, 3, dtype=torch.long),), {}).calls
    assert calls["attention"].odd == Cache.__name__
    assert calls["attention"].kept == []
    assert calls["attention.query"].odd == ""


def test_a_model_that_generates_makes_a_few_tokens() -> None:
    calls = record(Decoder().eval(), (torch.zeros(1, 7, dtype=torch.long),), {}).calls
    shapes = {tuple(call.args[0].shape[:2]) for call in calls["feed"].kept}
    assert shapes == {(1, 7), (1, 1)}


class Otherwise(nn.Module):
    """Has a method that is called like that of transformers, and is not."""

    def can_generate(self, prompt: Tensor) -> bool:
        return True

    def generate(self) -> None:
        """Takes no prompt."""


class Promises(nn.Module):
    """Says that it generates, and has no method for that."""

    def can_generate(self) -> bool:
        return True


class Makes(nn.Module):
    """Has a method of that name that makes something else of other arguments."""

    def generate(self, latent: Tensor) -> Tensor:
        return latent


class Denies(nn.Module):
    """Could, and says that it does not."""

    def can_generate(self) -> bool:
        return False

    def generate(self, ids: Tensor, max_new_tokens: int) -> Tensor:
        return ids


@pytest.mark.parametrize("kind", [Otherwise, Promises, Makes, Denies])
def test_models_that_do_not_generate_are_not_asked_to(kind: type[nn.Module]) -> None:
    assert not generates(kind())
