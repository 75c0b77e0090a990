"""Candidates timed in turns, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from statistics import median

from qfx.engines.candidates import Candidate, failed
from qfx.engines.source import Source

ROUNDS = 6
"""How often each is woken."""

_TURN, _MOST_CALLS = 0.03, 100
"""For how many seconds or calls, whichever ends first."""

_LEAST_ROUNDS, _ENOUGH = 4, 0.4
"""So many rounds do where all of them took so many seconds."""

_SURE_ROUNDS, _SURE_CALLS, _BEHIND = 2, 6, 1.15
"""So many rounds and calls do for one whose least time is so many times the median of the fastest,
and :data:`_LEAST_ROUNDS` where its median is. Where others disturb the machine, medians rise."""

_COLD = 0.01
"""Seconds of a call from where on it need not be warmed up in each turn."""

_PAUSE = 0.01
"""Seconds before each turn, for the threads of the one before to go to sleep."""

_PATIENCE = 50
"""How many times as long as a first run calls may take before they count as hanging."""


def time_in_turns(
    candidates: Sequence[Candidate], source: Source, *, writes: bool, rounds: int = ROUNDS
) -> None:
    """Time candidates, each turn after a call that is not counted, until it is clear which is best.

    Args:
        candidates: what was built; one that fails is put out of the running.
        source: has the examples.
        writes: whether the model writes to its inputs, so that each call needs new ones.
        rounds: how often each is woken, at most.
    """
    left = list(candidates)
    for number in range(rounds):
        left = [each for each in left if not each.why_not]
        if number >= _SURE_ROUNDS:
            left = _near(left, min if number < _LEAST_ROUNDS else median)
            if len(left) < min(len(candidates), 2):
                break  # there is nothing to compare any more
        if number >= _LEAST_ROUNDS and all(sum(each.times) >= _ENOUGH for each in left):
            break
        for index in range(len(left)):
            candidate = left[(index + number) % len(left)]
            time.sleep(_PAUSE)
            try:
                _turn(candidate, source, writes=writes)
            except Exception as error:  # whatever an engine raises
                failed(candidate, error)


def _near(candidates: Sequence[Candidate], of: Callable[[list[float]], float]) -> list[Candidate]:
    """Those that may yet be the fastest, by the least of their times, or their median."""
    limit = _BEHIND * min((each.median for each in candidates), default=math.inf)
    return [c for c in candidates if len(c.times) < _SURE_CALLS or of(c.times) < limit]


def _turn(candidate: Candidate, source: Source, *, writes: bool) -> None:
    deadline = max(5.0, _PATIENCE * candidate.first)
    assert candidate.assembly is not None
    forward = candidate.assembly.forward
    given = source.fresh if writes else source.call

    def run() -> list[float]:
        if candidate.first < _COLD:
            args, kwargs = given()
            forward(*args, **kwargs)
        times: list[float] = []
        end = time.perf_counter() + _TURN
        while not times or (len(times) < _MOST_CALLS and time.perf_counter() < end):
            args, kwargs = given()
            start = time.perf_counter()
            forward(*args, **kwargs)
            times.append(time.perf_counter() - start)
        return times

    with source.undisturbed():
        candidate.times += candidate.worker.do(run, deadline)
