"""Candidates are timed in turns, until it is clear which is the fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from qfx.engines import timing
from qfx.engines.assembly import Assembly
from qfx.engines.candidates import Candidate
from qfx.engines.source import Source, source_of
from qfx.engines.workers import Worker
from qfx.export.onnx.forms import OnnxForm
from tests.support.engines import Fake


class Clock:
    """A clock that only calls and pauses move on."""

    def __init__(self) -> None:
        self.now = 0.0

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(
        timing, "time", SimpleNamespace(perf_counter=lambda: made.now, sleep=made.wait)
    )
    return made


@pytest.fixture
def candidate(clock: Clock) -> Iterator[Callable[..., Candidate]]:
    worker = Worker("test")

    def made(*seconds: float) -> Candidate:
        """One whose calls take so many seconds, one after the other."""
        calls = iter(range(10**6))

        def forward(x: Tensor) -> Tensor:
            clock.wait(seconds[next(calls) % len(seconds)])
            return x

        return Candidate(Fake(), OnnxForm.EXACT, worker, Assembly(forward), first=1.0)

    yield made
    worker.close()


@pytest.fixture(scope="module")
def source() -> Source:
    return source_of(nn.ReLU().eval(), torch.ones(1))


def test_who_is_clearly_behind_is_put_aside(
    candidate: Callable[..., Candidate], source: Source
) -> None:
    fast, near, slow = candidate(0.004), candidate(0.0043), candidate(0.006)
    timing.time_in_turns([fast, near, slow], source, writes=False)
    turns = [round(sum(each.times) / 0.03) for each in (fast, near, slow)]
    assert turns == [timing.ROUNDS, timing.ROUNDS, 2]


def test_it_ends_where_one_is_left(candidate: Callable[..., Candidate], source: Source) -> None:
    fast, slow = candidate(0.004), candidate(0.006)
    timing.time_in_turns([fast, slow], source, writes=False)
    assert [round(sum(each.times) / 0.03) for each in (fast, slow)] == [2, 2]
    alone = candidate(0.004)
    timing.time_in_turns([alone], source, writes=False)
    assert round(sum(alone.times) / 0.03) == timing.ROUNDS


def test_where_others_disturb_it_takes_longer_to_be_sure(
    candidate: Callable[..., Candidate], source: Source
) -> None:
    """Two of three calls take twice as long: the slower one's least is near the other's median."""
    fast, slow = candidate(0.004, 0.008, 0.008), candidate(0.006, 0.012, 0.012)
    timing.time_in_turns([fast, slow], source, writes=False)
    assert all(sum(each.times) >= 4 * 0.03 for each in (fast, slow))
    fast, near = candidate(0.004, 0.008, 0.008), candidate(0.0043, 0.0086, 0.0086)
    timing.time_in_turns([fast, near], source, writes=False)
    assert all(sum(each.times) >= timing.ROUNDS * 0.03 for each in (fast, near))


def test_few_calls_say_little(candidate: Callable[..., Candidate], source: Source) -> None:
    fast, slow = candidate(0.04), candidate(0.06)
    timing.time_in_turns([fast, slow], source, writes=False)
    assert len(slow.times) == timing.ROUNDS
