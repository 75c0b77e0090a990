"""Two thousand mutations of saved files; ``python -m tests.storage.fuzz`` runs more.

What is guided by coverage needs a library of its own: here its inputs are run without it.
"""

from __future__ import annotations

import pytest

from tests.storage import fuzz, fuzz_coverage, fuzz_runs

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


@pytest.mark.slow
def test_inputs_of_the_guided_fuzzer() -> None:
    fuzz.watch()
    for number, seed in enumerate(fuzz_coverage.seeds()):
        assert fuzz_coverage.run(seed) == "loads"
        other = fuzz_coverage.mutated(seed, 1 << 20, number, lambda data, most: data[:most] + b"x")
        assert other != seed
        assert fuzz_coverage.run(other) in ("", "loads", "FormatError")
    assert fuzz_coverage.run(b"\xff") == fuzz_coverage.run(b"\x02[") == ""
    assert fuzz_coverage.run(b"") == "FormatError"


@pytest.mark.slow
def test_models_of_mutated_files_end_no_process() -> None:
    ran, faults = fuzz_runs.crashes(300, seed=12)
    assert faults == []
    assert ran > 20
