"""Which pass removed what, found in one walk over a stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import qfx
from qfx.history.removal import removers

X = torch.randn(2, 4)


class Counted(tuple[Any, ...]):
    """A tuple that counts what is read of it."""

    reads = 0

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            type(self).reads += 1
            yield item


@dataclass(frozen=True)
class Recorded:
    name: str
    snapshot: Any
    events: Any


def dropped(count: int) -> tuple[dict[str, str], int]:
    """Who removed the dropouts of a chain, and how many events were looked at."""
    model = nn.Sequential(*(nn.Dropout() for _ in range(count)), nn.ReLU()).eval()
    _, history = qfx.run_passes(model, [qfx.get_pass("canonicalize")], X)
    stages = [Recorded(s.name, s.snapshot, Counted(s.events)) for s in history]
    Counted.reads = 0
    names = [record.name for record in history[0].snapshot]
    return removers(stages, names), Counted.reads


def test_every_removed_operation_has_its_pass() -> None:
    found, _ = dropped(3)
    assert len(found) == 3
    assert set(found.values()) == {"canonicalize/dropouts"}


def test_work_is_linear_in_what_was_removed() -> None:
    (few, reads), (many, more) = dropped(10), dropped(40)
    assert (len(few), len(many)) == (10, 40)
    assert more <= 4.5 * reads
