"""A few of the many models and passes that tools/fuzz_passes.py tries."""

from __future__ import annotations

import pytest

from tools import fuzz_passes


def test_right_passes_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz_passes.main(["--seeds", "6", "--from", "20"]) == 0
    assert capsys.readouterr().out.startswith("6 models hold; rules fired: {")


@pytest.mark.parametrize("how", fuzz_passes.BREAKS, ids=lambda how: how.__name__)
def test_broken_passes_are_told(how: fuzz_passes.Break) -> None:
    assert fuzz_passes.is_told(how, seed=2) == ""


def test_what_is_not_told_is_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(graph: object, node: object, rw: object) -> None:
        """Nothing is wrong."""

    monkeypatch.setattr(fuzz_passes, "BREAKS", (nothing,))
    assert fuzz_passes.main(["--seeds", "1", "--broken"]) == 1
    assert "seed 0, nothing: nothing was raised" in capsys.readouterr().out
