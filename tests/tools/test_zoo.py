from __future__ import annotations

import pytest

from tools import zoo


def test_one_line_a_model_and_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert zoo.main(["squeezenet1_1"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("squeezenet1_1")
    assert "error 0.0e+00 0.0e+00" in first
    assert last == "1 of 1"


def test_a_model_that_fails_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert zoo.main(["no_such_model"]) == 1
    assert "FAILED" in capsys.readouterr().out
