"""The coordinator, with toy workers: processes that speak the protocol, and objects in this one."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from benchmarks.coordinator import Timing, Worker, WorkerError, engine_command, interleave

ECHO = """
import json, sys
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    print(json.dumps({"echo": json.loads(line)}), flush=True)
"""
DIES = """
import json, sys
print(json.dumps({}), flush=True)
sys.stdin.readline()
sys.exit("no such kernel")
"""


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_worker_answers_each_request() -> None:
    with Worker(python(ECHO)) as worker:
        assert worker.ready == {"ready": True}
        assert worker.request({"a": 1}) == {"echo": {"a": 1}}
        assert worker.request({"b": 2}) == {"echo": {"b": 2}}


def test_worker_that_fails_to_start_says_its_last_words() -> None:
    with pytest.raises(WorkerError, match="exit code 1: RuntimeError: cannot build"):
        Worker(python("raise RuntimeError('cannot build')"))


def test_worker_that_dies_on_a_request_says_its_last_words() -> None:
    with Worker(python(DIES)) as worker, pytest.raises(WorkerError, match="no such kernel"):
        worker.request({"run": {}})


@pytest.mark.slow
def test_real_worker_measures_the_float_model() -> None:
    with Worker(engine_command("eager", "toy", batch=2, threads=1)) as worker:
        assert worker.ready["coverage"] is None
        assert worker.ready["build_seconds"] > 0
        assert len(worker.request({"run": {"iterations": 3, "warmup": 1}})["seconds"]) == 3
        assert worker.request({"sqnr": {"batch": 2, "seed": 1}}) == {"sqnr": float("inf")}


class Recorded:
    """A worker in this process that notes when it is woken."""

    def __init__(self, name: str, log: list[str], seconds: float = 1.0) -> None:
        self.name, self.log, self.seconds = name, log, seconds

    def request(self, message: dict[str, Any]) -> dict[str, Any]:
        self.log.append(self.name)
        return {"seconds": [self.seconds] * message["run"]["iterations"]}


def test_rounds_wake_every_worker_once_and_rotate() -> None:
    log: list[str] = []
    workers = {name: Recorded(name, log) for name in "abc"}
    timings = interleave(workers, rounds=3, iterations=2, warmup=0, pause=0)
    assert "".join(log) == "abc" + "bca" + "cab"
    assert {name: timing.rounds for name, timing in timings.items()} == {
        name: [[1.0, 1.0]] * 3 for name in "abc"
    }


def test_no_worker_no_round() -> None:
    assert interleave({}, rounds=3, iterations=2, warmup=0, pause=0) == {}


def test_ratio_is_taken_round_by_round() -> None:
    # The machine slows down tenfold in the second round: every quotient is still 2.
    slow = Timing([[4.0, 4.0], [40.0, 40.0], [4.0, 4.0]])
    fast = Timing([[2.0, 2.0], [20.0, 20.0], [2.0, 2.0]])
    assert fast.ratio(slow) == 2.0
    assert (fast.median, fast.minimum) == (2.0, 2.0)
