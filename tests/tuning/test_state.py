"""What ends the process in the middle of a trial loses nothing but that trial."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import qfx
from qfx.tuning.record import Record, TrialOutcome
from tests.tuning.nets import Planted, X, bits_of, net

SCRIPT = """
import os, sys
import qfx
from tests.tuning.nets import Planted, X, net

def killed(call):
    if call == 3:
        os._exit(9)

qfx.tune(net(), X, [X, -X], Planted({("second", 4): 0.5}, killed), backend="reference",
         state=sys.argv[1])
"""


@pytest.mark.slow
def test_goes_on_after_the_process_was_killed(tmp_path: Path) -> None:
    state = tmp_path / "search.json"
    ended = subprocess.run([sys.executable, "-c", SCRIPT, str(state)], check=False)
    assert ended.returncode == 9
    planted = Planted({("second", 4): 0.5})
    best = qfx.tune(net(), X, [X, -X], planted, backend="reference", state=state)
    assert bits_of(best) == {"first": 4, "second": 8, "last": 4}
    assert best.tuning is not None
    assert planted.calls == len(best.tuning) - 1  # neither the float model nor the first again


def test_a_trial_that_ended_the_process_twice_is_not_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    for times in (1, 2):
        record = Record.open(path, "model")
        assert "plan" not in record.outcomes
        record.begun["plan"] = times
        record.write()
    assert Record.open(path, "model").outcomes["plan"].why_not.startswith("the process ended")


def test_a_failed_trial_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    record = Record.open(path, "model")
    record.outcomes["good"] = TrialOutcome(0.5, 10, None, 1.0)
    record.outcomes["bad"] = TrialOutcome(None, 10, None, 1.0, "raised")
    record.write()
    assert list(Record.open(path, "model").outcomes) == ["good"]
