"""What the benchmark of rules drives and prints; nothing is timed here."""

from __future__ import annotations

import pytest

from benchmarks import rules


def test_rules_are_drawn_alike_and_mostly_left_untried(capsys: pytest.CaptureFixture[str]) -> None:
    assert [str(r.pattern) for r in rules.rules_of(40)] == [
        str(r.pattern) for r in rules.rules_of(40)
    ]
    row = rules.measure(400, 200, repeats=1)
    assert len(row.statistics) == row.rules == 200
    tried = sum(rule.attempts for rule in row.statistics)
    assert 0 < tried < 2 * row.nodes
    assert sum(rule.rewrites for rule in row.statistics) == 0
    rules.main(["--nodes", "100", "--rules", "20", "--repeats", "1", "--slowest", "2"])
    printed = capsys.readouterr().out
    assert "walks per 100 rules" in printed.splitlines()[0]
    assert printed.splitlines()[-3].startswith("-")
