"""Two thousand mutations of saved files; ``python -m tests.storage.fuzz`` runs more."""

from __future__ import annotations

import pytest

from tests.storage import fuzz

_CHUNK = 500


@pytest.mark.slow
@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("chunk", range(4))
def test_mutations_load_right_or_are_refused(chunk: int) -> None:
    found, faults = fuzz.run(_CHUNK, seed=12, first=chunk * _CHUNK)
    assert faults == []
    assert found["raw: FormatError"] > 100
    assert found["told: FormatError"] > 100
    assert found["forged: loads"] > 20
