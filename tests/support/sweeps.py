"""Which cases of a product every run takes, and which the whole sweep.

A test over several parameters marked ``sweep`` takes as few cases as hold every value of each
parameter (each-choice coverage: Ammann and Offutt, Introduction to Software Testing, 4.2), or the
first so many with ``sweep(first=8)``. What is left over is marked ``slow``: CI runs that too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import pytest

Value = tuple[str, int]


def thin(items: Iterable[pytest.Item]) -> None:
    """Mark as slow what a sweep need not run each time."""
    sweeps: defaultdict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("sweep"):
            sweeps[item.nodeid.partition("[")[0]].append(item)
    for cases in sweeps.values():
        mark = cases[0].get_closest_marker("sweep")
        first = mark.kwargs.get("first") if mark else None
        kept = cases[:first] if first else each_choice(cases)
        for case in cases:
            if case not in kept:
                case.add_marker(pytest.mark.slow)


def each_choice(cases: Sequence[pytest.Function]) -> list[pytest.Function]:
    """Few cases that hold every value of every parameter."""
    missing = set().union(*map(values_of, cases))
    kept = []
    while missing:
        best = max(cases, key=lambda case: len(missing & values_of(case)))
        missing -= values_of(best)
        kept.append(best)
    return kept


def values_of(case: pytest.Function) -> set[Value]:
    """Values by identity: the cases of a test share the objects that it lists."""
    return {(name, id(value)) for name, value in case.callspec.params.items()}
