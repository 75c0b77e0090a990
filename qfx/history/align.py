"""Which node of one snapshot became which node of another.

Names alone mislead: a pass renames what it rebuilds, and a name freed may be taken by something
else. So two nodes are the same when

1. they share a name, and their origins overlap (or one of them has none); else
2. they yield the same type and derive from exactly the same captured operations, which nothing
   else on either side does; else
3. without provenance, they do the same with the same operands.

Every step is a dictionary pass: linear in the two graphs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from qfx.graph.text import REFERENCE
from qfx.history.record import NodeRecord

Pairs = dict[str, NodeRecord]
"""For the name of each aligned new node the old node that it was."""


def align(before: Sequence[NodeRecord], after: Sequence[NodeRecord]) -> Pairs:
    """Pair the nodes of two snapshots; what is missing was removed or added."""
    old = {r.name: r for r in before}
    pairs = {r.name: old[r.name] for r in after if r.name in old and _may_be(old[r.name], r)}
    taken = {r.name for r in pairs.values()}
    left = [r for r in before if r.name not in taken]
    if left:
        _by_origins(pairs, left, [r for r in after if r.name not in pairs])
        _by_content(pairs, left, [r for r in after if r.name not in pairs])
    return pairs


def _may_be(a: NodeRecord, b: NodeRecord) -> bool:
    if a is b:
        return True
    if (a.op == "output") != (b.op == "output"):
        return False
    return not a.origins or not b.origins or not origin_names(a).isdisjoint(origin_names(b))


def origin_names(record: NodeRecord) -> frozenset[str]:
    """Names of the captured operations; source lines don't count, as editing a file shifts them."""
    return frozenset(o.node for o in record.origins)


def _by_origins(pairs: Pairs, left: list[NodeRecord], added: list[NodeRecord]) -> None:
    """Pair the sole heir of some captured operations with their sole owner."""
    before, after = _sole(left), _sole(added)
    for key, record in after.items():
        old = before.get(key)
        if old is not None and old.type_text == record.type_text:
            pairs[record.name] = old


def _sole(records: Iterable[NodeRecord]) -> dict[frozenset[str], NodeRecord]:
    records = [r for r in records if r.origins and r.op != "get_attr"]
    count = Counter(map(origin_names, records))
    return {origin_names(r): r for r in records if count[origin_names(r)] == 1}


def _by_content(pairs: Pairs, left: list[NodeRecord], added: list[NodeRecord]) -> None:
    """Pair equal computations in graph order, so that operands are paired before their readers."""
    taken = {r.name for r in pairs.values()}
    waiting: dict[tuple[str, ...], list[NodeRecord]] = {}
    for record in reversed(left):
        if record.name not in taken:
            waiting.setdefault(_content(record, record.args), []).append(record)
    for record in added:
        found = waiting.get(_content(record, renamed(record.args, pairs)))
        if found and _may_be(found[-1], record):
            pairs[record.name] = found.pop()


def _content(record: NodeRecord, args: str) -> tuple[str, ...]:
    return (record.op, record.target, record.path, args, record.type_text)


def renamed(args: str, pairs: Mapping[str, NodeRecord]) -> str:
    """An argument template of the new snapshot in the names of the old one."""
    return REFERENCE.sub(
        lambda found: f"%{pairs[found[1]].name}" if found[1] in pairs else found[0], args
    )


def reads_others(a: NodeRecord, b: NodeRecord) -> bool:
    """Whether two nodes do the same thing and differ, if at all, in the operands they read."""
    skeletons = (REFERENCE.sub("%", r.args) for r in (a, b))
    return _content(a, next(skeletons)) == _content(b, next(skeletons))


def longest_increasing(values: Sequence[int]) -> set[int]:
    """Positions of a longest increasing subsequence (patience sorting, O(n log n))."""
    tails: list[int] = []
    at: list[int] = []
    previous = [-1] * len(values)
    for position, value in enumerate(values):
        slot = len(tails) if not tails or value > tails[-1] else bisect_left(tails, value)
        if slot == len(tails):
            tails.append(value)
            at.append(position)
        else:
            tails[slot], at[slot] = value, position
        previous[position] = at[slot - 1] if slot else -1
    chosen: set[int] = set()
    position = at[-1] if at else -1
    while position >= 0:
        chosen.add(position)
        position = previous[position]
    return chosen
