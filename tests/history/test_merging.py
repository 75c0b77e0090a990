"""Histories of regions, merged: stage by stage, nodes addressed with their region."""

from __future__ import annotations

import qfx
from qfx.history.history import History
from qfx.history.merging import merged_history
from qfx.history.snapshot import snapshot
from qfx.history.stage import Stage
from tests.history.test_history import build


def of(*forms: str) -> History:
    stages = [Stage(i, form, snapshot(build(form))) for i, form in enumerate(forms)]
    return History(stages)


def test_nodes_are_addressed_and_references_follow() -> None:
    merged = merged_history({"a.0": of("written"), "b": of("written")})
    text = merged.to_text(0)
    assert "%a.0:relu" in text
    assert "= F.relu(%b:conv)" in text or "relu(%b:conv)" in text
    assert merged[0].snapshot["b:relu"].inputs == ("b:conv",)
    assert len(merged[0].snapshot) == 2 * len(of("written")[0].snapshot)


def test_stages_go_side_by_side_and_the_shorter_stands_still() -> None:
    merged = merged_history(
        {"a": of("written", "canonical", "fused"), "b": of("written", "canonical")}
    )
    assert [stage.name for stage in merged] == ["written", "canonical", "fused"]
    changed = qfx.diff(merged[1].snapshot, merged[2].snapshot)
    assert set(changed.added) == {"a:conv_relu"}


def test_equal_graphs_in_two_regions_are_told_apart() -> None:
    first, second = merged_history({"a": of("written")}), merged_history({"b": of("written")})
    assert first[0].snapshot != second[0].snapshot
    assert merged_history({"a": of("written")})[0].snapshot == first[0].snapshot
