"""plan-memory: an order in which fewer bytes are alive at once, and a place for each of them.

A value is alive from the call that makes it to the last call that reads it, or a view of it; what
the model returns stays alive to the end. The *peak* is the largest sum of bytes that are alive
during one call, its operands and its result among them. Inputs belong to the caller and parameters
to the model, so neither counts, and a reshape counts as a view.

The order is the best of three: as written; greedy, where of all calls that could come next the one
goes first that adds the fewest bytes, less those that it sets free; and depth first, where what
makes most bytes is finished before the next begins. Calls that act or write stay where they are,
and the others stay on their side of them.

Offsets are by first fit, the largest values first, each at the lowest place that no value occupies
which is alive at the same time. They take ``arena_bytes``, never less than the peak.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import fx

import qfx
from qfx import vocab

_COPIES = (
    *(vocab.CLONE, vocab.REPEAT, vocab.REPEAT_INTERLEAVE, vocab.ROLL, vocab.FLIP, vocab.GATHER),
    *(vocab.INDEX_SELECT, vocab.PIXEL_SHUFFLE, vocab.PIXEL_UNSHUFFLE, vocab.CHANNEL_SHUFFLE),
)
"""Operations that move values to memory of their own."""

_WINDOW = 64
"""How many calls that could come next are looked at, so that wide graphs take no square of time."""


@dataclass(frozen=True)
class MemoryPlan:
    """Where values lie, and how many bytes are alive.

    Attributes:
        peak_bytes_before: as the graph was written.
        peak_bytes: in the order of the plan.
        arena_bytes: what the offsets take.
        alive: for each call, the bytes that are alive during it.
        offsets: for each call that makes a value, where that begins.
    """

    peak_bytes_before: int
    peak_bytes: int
    arena_bytes: int
    alive: dict[fx.Node, int]
    offsets: dict[fx.Node, int]


class PlanMemory(qfx.Pass):
    """Reorder calls so that fewer bytes are alive at once, and say where each value could lie.

    Attributes:
        reorder: whether to; else the order stays, and only the plan is made.
    """

    name = "plan-memory"
    requires = qfx.Level.CANONICAL
    reorder: bool = True

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        """Move calls, and record ``alive`` and ``offset`` of each, and the peaks of the output."""
        values = _Values(graph)
        written = list(graph.nodes)
        orders = [written, _greedy(written, values), _depth_first(written, values)]
        best = min(orders, key=values.peak) if self.reorder else written
        _arrange(graph, best, ctx.rewriter)
        plan = _plan(values, written, best)
        for node, alive in plan.alive.items():
            ctx.record(node, "alive", alive)
        for node, offset in plan.offsets.items():
            ctx.record(node, "offset", offset)
        for name in ("peak_bytes_before", "peak_bytes", "arena_bytes"):
            ctx.record(written[-1], name, getattr(plan, name))


class _Values:
    """The values of a graph: who makes them, how large they are, and who reads them.

    Attributes:
        owner: for each node the node that made the memory its result lies in.
        size: bytes, by owner; 0 for inputs and parameters.
        readers: by owner, in graph order.
        reads: for each node the owners of what it reads.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.owner: dict[fx.Node, fx.Node] = {}
        self.size: dict[fx.Node, int] = {}
        self.readers: dict[fx.Node, list[fx.Node]] = {}
        self.reads: dict[fx.Node, list[fx.Node]] = {}
        for node in graph.nodes:
            self._take_in(node)

    def _take_in(self, node: fx.Node) -> None:
        read = dict.fromkeys(self.owner[each] for each in node.all_input_nodes)
        self.reads[node] = list(read)
        for owner in read:
            self.readers[owner].append(node)
        views = () if node.target in _COPIES else qfx.shares_memory(node)
        self.owner[node] = owner = self.owner[views[0]] if views else node
        if owner is node:
            self.readers[node] = []
            self.size[node] = _bytes(node) if node.op.startswith("call_") else 0
        elif owner.op.startswith("call_") and qfx.tensor_info(owner) is None:
            self.size[owner] += _bytes(node)  # one of several results

    def alive(self, order: Sequence[fx.Node]) -> Iterator[tuple[fx.Node, int]]:
        """For each call the bytes that are alive during it, in ``order``."""
        lifetimes = self.lifetimes(order)
        ends: dict[int, list[fx.Node]] = {}
        for owner, (_, end) in lifetimes.items():
            ends.setdefault(end, []).append(owner)
        now = 0
        for position, node in enumerate(order):
            now += self.size.get(node, 0)
            if node.op.startswith("call_"):
                yield node, now
            now -= sum(self.size[owner] for owner in ends.get(position, ()))

    def peak(self, order: Sequence[fx.Node]) -> int:
        """The most bytes that are alive at once."""
        return max((alive for _, alive in self.alive(order)), default=0)

    def lifetimes(self, order: Sequence[fx.Node]) -> dict[fx.Node, tuple[int, int]]:
        """From where to where in ``order`` each value is alive."""
        place = {node: position for position, node in enumerate(order)}
        return {
            owner: (
                place[owner],
                max((place[r] for r in self.readers[owner]), default=place[owner]),
            )
            for owner in self.size
        }


def _bytes(node: fx.Node) -> int:
    info = qfx.tensor_info(node)
    return 0 if info is None else info.numel * info.dtype.itemsize


def _plan(values: _Values, written: Sequence[fx.Node], order: Sequence[fx.Node]) -> MemoryPlan:
    offsets, arena = _first_fit(values, order)
    alive = dict(values.alive(order))
    return MemoryPlan(values.peak(written), max(alive.values(), default=0), arena, alive, offsets)


def _first_fit(values: _Values, order: Sequence[fx.Node]) -> tuple[dict[fx.Node, int], int]:
    """An offset for each value, and how many bytes they take in all."""
    lifetimes = values.lifetimes(order)
    placed: list[tuple[int, int, int, int]] = []  # offset, end of it, from where, to where
    offsets: dict[fx.Node, int] = {}
    for owner in sorted((o for o in values.size if values.size[o]), key=lambda o: -values.size[o]):
        start, end = lifetimes[owner]
        offset = 0
        for low, high, since, until in placed:
            if since <= end and start <= until and low < offset + values.size[owner]:
                offset = max(offset, high)
        insort(placed, (offset, offset + values.size[owner], start, end))
        offsets[owner] = offset
    return offsets, max((high for _, high, _, _ in placed), default=0)


# -- orders --------------------------------------------------------------------------------------
def _greedy(written: Sequence[fx.Node], values: _Values) -> list[fx.Node]:
    """Next comes what adds fewest bytes, less those that it sets free."""
    unread = {owner: len(readers) for owner, readers in values.readers.items()}

    def growth(node: fx.Node) -> int:
        freed = sum(values.size[o] for o in values.reads[node] if unread[o] == 1)
        return values.size.get(node, 0) - freed

    order: list[fx.Node] = []
    for node in _piece_by_piece(written, lambda run: _least_first(run, growth)):
        for owner in values.reads[node]:
            unread[owner] -= 1
        order.append(node)
    return order


def _least_first(run: Sequence[fx.Node], growth: Callable[[fx.Node], int]) -> Iterator[fx.Node]:
    """Of what could come next, what grows least; as things stand when it is asked for."""
    place = {node: position for position, node in enumerate(run)}
    missing = {node: sum(each in place for each in node.all_input_nodes) for node in run}
    ready = [node for node in run if not missing[node]]
    while ready:
        node = min(ready[:_WINDOW], key=growth)
        ready.remove(node)
        yield node
        for user in node.users:
            if user in place:
                missing[user] -= 1
                if not missing[user]:
                    insort(ready, user, key=place.__getitem__)


def _depth_first(written: Sequence[fx.Node], values: _Values) -> list[fx.Node]:
    """What takes most bytes to make is finished before the next begins."""
    return list(_piece_by_piece(written, lambda run: _finishing(run, values)))


def _finishing(run: Sequence[fx.Node], values: _Values) -> list[fx.Node]:
    operands = _neediest_first(run, values)
    done: dict[fx.Node, None] = {}
    for last in run:
        if any(user in operands for user in last.users):
            continue  # comes with what reads it
        stack = [last]
        while stack:
            missing = [each for each in operands[stack[-1]] if each not in done]
            if missing:
                stack.extend(reversed(missing))
            else:
                done[stack.pop()] = None
    return list(done)


def _neediest_first(run: Sequence[fx.Node], values: _Values) -> dict[fx.Node, list[fx.Node]]:
    """For each call its operands in ``run``, first those that need most beyond what they leave."""
    need: dict[fx.Node, int] = {}
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in run:
        inside = [each for each in node.all_input_nodes if each in need]
        inside.sort(key=lambda each: values.size.get(each, 0) - need[each])
        held = most = 0
        for each in inside:
            most = max(most, held + need[each])
            held += values.size.get(each, 0)
        need[node] = max(most, held + values.size.get(node, 0))
        found[node] = inside
    return found


def _piece_by_piece(
    written: Sequence[fx.Node], arranged: Callable[[list[fx.Node]], Iterable[fx.Node]]
) -> Iterator[fx.Node]:
    """All nodes, each run of calls that may change places ``arranged``.

    Parameters come right before what reads them first.
    """
    seen: set[fx.Node] = set()
    calls = (node for node in written if node.op != "get_attr")
    for free, run in groupby(calls, _may_move):
        for node in arranged(list(run)) if free else run:
            for each in node.all_input_nodes:
                if each.op == "get_attr" and each not in seen:
                    seen.add(each)
                    yield each
            yield node


def _may_move(node: fx.Node) -> bool:
    return node.op.startswith("call_") and not (qfx.has_effect(node) or qfx.overwrites(node))


def _arrange(graph: fx.Graph, order: Iterable[fx.Node], rw: qfx.Rewriter) -> None:
    """Move nodes until they stand in ``order``, each above what reads it all the time."""
    cursor = next(iter(graph.nodes))
    for node in order:
        if node is cursor:
            cursor = cursor.next
        else:
            rw.move(node, before=cursor)
