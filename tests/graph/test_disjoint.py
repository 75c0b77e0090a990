"""Sets that are only ever joined."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from qfx.graph.disjoint import DisjointSets

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20)


@settings(deadline=None)
@given(PAIRS)
def test_what_is_joined_has_one_root(pairs: list[tuple[int, int]]) -> None:
    sets: DisjointSets[int] = DisjointSets()
    plain = {n: {n} for n in range(10)}
    for n in range(10):
        sets.add(n)
    for item, other in pairs:
        before = sets.root(item), sets.root(other)
        gone = sets.join(item, other)
        assert gone == (None if before[0] == before[1] else before[0])
        assert sets.root(item) == before[1]
        merged = plain[item] | plain[other]
        plain.update((n, merged) for n in merged)
    for n in range(10):
        assert {m for m in range(10) if sets.root(m) == sets.root(n)} == plain[n]
    assert 3 in sets
    assert 11 not in sets
