"""What a pass did to a graph: nodes aligned by provenance, shown as hunks.

::

    # 1 canonicalize -> 2 fuse-conv-relu   -2 +1 nodes
    @@ layer1.0.conv1, lines 8-12 @@
      %pool       : f32[1,8,16,16] = max_pool2d(%x, kernel_size=2)
    - %conv1      : f32[1,8,16,16] = conv2d(%pool, @layer1.0.conv1.weight)
    - %relu       : f32[1,8,16,16] = relu(%conv1)
    + %conv1_relu : f32[1,8,16,16] = conv2d+relu(%pool, @layer1.0.conv1.weight)   # from conv1, relu
      %flatten    : f32[1,2048]    = flatten(%conv1_relu, start_dim=1)

A node that merely reads its operand's replacement (``flatten`` above) has not changed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import fx

from qfx.history.align import Pairs, align, longest_increasing, origin_names, reads_others
from qfx.history.hunks import text_of
from qfx.history.record import NodeRecord
from qfx.history.snapshot import Snapshot, snapshot
from qfx.history.stage import Stage
from qfx.history.weights import OtherTensor, constants_in_place, other_tensors, with_open_weights

if TYPE_CHECKING:
    import graphviz


_MOST_WEIGHTS = 20
"""How many of the weights that differ are listed."""


class GraphDiff:
    """The difference between two snapshots; falsy when there is none.

    Attributes:
        before, after: the snapshots.
        labels: what to call them.
        added: names of nodes that only ``after`` has.
        removed: names of nodes that only ``before`` has.
        changed: names, in ``after``, of nodes that do something else, or are called otherwise.
        moved: names, in ``after``, of nodes that stand elsewhere in the order; parameters aside.
        renamed: for each node of ``after`` that had another name, that name.
        noted: names, in ``after``, of nodes of which passes have recorded something else. That is
            no difference of the graphs; it is shown where there is no other.
        weights: parameters and buffers of one name, or read in one place, whose shapes or contents
            differ, where two live models are compared: snapshots hold no tensors. What kernels of
            quantized models have packed is compared as their reference graphs hold it.
    """

    def __init__(
        self,
        before: Snapshot,
        after: Snapshot,
        labels: tuple[str, str] = ("before", "after"),
    ) -> None:
        self.weights: tuple[OtherTensor, ...] = ()
        self.before = before
        self.after = after
        self.labels = labels
        same = before == after
        pairs = {r.name: r for r in after} if same else align(before.records, after.records)
        taken = {r.name for r in pairs.values()}
        gone = [r for r in before if r.name not in taken]
        new = [r for r in after if r.name not in pairs]
        self._pairs = pairs
        self.added = tuple(r.name for r in new)
        self.removed = tuple(r.name for r in gone)
        self.renamed = {n: r.name for n, r in pairs.items() if n != r.name}
        stands_for = _stands_for(gone, after, pairs)
        self.changed = tuple(
            r.name
            for r in after
            if r.name in pairs and _differs(pairs[r.name], r, pairs, stands_for)
        )
        self.moved = () if same else _moved(before, after, pairs)
        old = {r.name: r for r in before} if same else pairs
        self.noted = tuple(
            r.name for r in after if r.name in old and old[r.name].findings != r.findings
        )

    @cached_property
    def replaced(self) -> dict[str, str]:
        """For each removed node the added or changed one that took its place, if any.

        It derives from the same operation and stands, as the first such, after what preceded the
        removed node and is still there.
        """
        new = {*self.added, *self.changed}
        heirs: dict[str, list[tuple[int, str]]] = {}
        for position, record in enumerate(self.after):
            if record.name not in new or record.op == "get_attr":
                continue
            for origin in record.origins:
                heirs.setdefault(origin.node, []).append((position, record.name))
        place = {r.name: i for i, r in enumerate(self.after)}
        moved, gone = set(self.moved), set(self.removed)
        now = {old.name: place[n] for n, old in self._pairs.items() if n not in moved}
        found: dict[str, str] = {}
        passed = -1
        for record in self.before:
            passed = now.get(record.name, passed)
            mine = [heirs[o.node] for o in record.origins if o.node in heirs]
            if record.name in gone and mine:
                at = min(bisect_left(mine[0], (passed + 1, "")), len(mine[0]) - 1)
                found[record.name] = mine[0][at][1]
        return found

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.moved or self.weights)

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"<GraphDiff {self.summary()}>"

    def summary(self) -> str:
        """``-2 +1 nodes, 1 changed, 1 moved``, or ``no difference``. Parameters count apart."""
        if not self:
            return "no difference" + (
                f", findings of {len(self.noted)} nodes" if self.noted else ""
            )
        removed = _parameters(self.before, self.removed)
        added = _parameters(self.after, self.added)
        parts = [f"-{len(self.removed) - removed} +{len(self.added) - added} nodes"]
        parts += [f"-{removed} +{added} parameters"] if removed or added else []
        parts += [f"{len(self.changed)} changed"] if self.changed else []
        parts += [f"{len(self.moved)} moved"] if self.moved else []
        parts += [f"{len(self.weights)} weights differ"] if self.weights else []
        return ", ".join(parts)

    def constants(self) -> Iterator[tuple[str, str]]:
        """Qualified names, before and after, of what operations read that are in both graphs."""
        return constants_in_place(self.before, self.after, self._pairs)

    def was(self, name: str) -> NodeRecord | None:
        """The node of ``before`` that the node ``name`` of ``after`` was, None for an added one."""
        return self._pairs.get(name)

    def to_text(self, *, context: int = 2) -> str:
        """What differs, with ``context`` unchanged lines around it; deterministic."""
        head = f"# {self.labels[0]} -> {self.labels[1]}   {self.summary()}\n"
        weights = "".join(f"# @{name}: {how}\n" for name, how in self.weights[:_MOST_WEIGHTS])
        more = len(self.weights) - _MOST_WEIGHTS
        weights += f"# ... {more} more (diff.weights)\n" if more > 0 else ""
        return head + weights + text_of(self, context)

    def to_dot(self, *, context: int | None = 2) -> graphviz.Digraph:
        """A coloured drawing: added green, removed red, changed amber, moved blue, noted violet.

        Args:
            context: how many edges away from a difference to draw; None draws everything.
        """
        from qfx.history import dot_diff

        return dot_diff.draw_diff(self, context)


def diff(a: Snapshot | Stage | fx.GraphModule, b: Snapshot | Stage | fx.GraphModule) -> GraphDiff:
    """The difference between two graphs, from ``a`` to ``b``.

    Args:
        a: a live graph, a snapshot of one, or a stage of a history.
        b: likewise, of the same model or of another. Of two live graphs what they hold is compared
            as well.
    """
    before = _view(a)
    found = GraphDiff(before, _view(b, before))
    if isinstance(a, fx.GraphModule) and isinstance(b, fx.GraphModule):
        found.weights = _other_weights(a, b, found)
    return found


def _view(given: Snapshot | Stage | fx.GraphModule, before: Snapshot | None = None) -> Snapshot:
    """A snapshot of what was given, in the same region as ``before``."""
    if isinstance(given, Stage):
        return given.snapshot
    if isinstance(given, Snapshot):
        return given
    if before is None:
        return snapshot(given)
    return snapshot(given, region=before.region, previous=before)


def _other_weights(
    a: fx.GraphModule, b: fx.GraphModule, found: GraphDiff
) -> tuple[OtherTensor, ...]:
    """What differs of what two models hold, and of what they mean where that is packed."""
    weights = list(other_tensors(a, b, found.constants()))
    meant = with_open_weights(a), with_open_weights(b)
    if meant == (a, b):
        return tuple(weights)
    told = {other.name for other in weights}
    shown = diff(*meant).weights
    return (*weights, *(other for other in shown if other.name.replace(".", "_") not in told))


def _parameters(view: Snapshot, names: tuple[str, ...]) -> int:
    """How many of the nodes are ``get_attr``."""
    wanted = set(names)
    return sum(r.op == "get_attr" and r.name in wanted for r in view)


def _stands_for(gone: Iterable[NodeRecord], after: Snapshot, pairs: Pairs) -> dict[str, str]:
    """For nodes that are new, or derive from more than before, the removed one they stand for.

    That is the last one whose origins they have: its result is what they yield.
    """
    owner: dict[str, tuple[int, NodeRecord]] = {}
    for position, record in enumerate(gone):
        for name in origin_names(record) if record.op != "get_attr" else ():
            owner[name] = (position, record)
    found: dict[str, str] = {}
    for record in after if owner else ():
        old = pairs.get(record.name)
        if record.op == "get_attr" or (old is not None and old.origins == record.origins):
            continue
        names = origin_names(record)
        candidates = [owner[name] for name in names if name in owner]
        last = max(candidates, key=lambda item: item[0])[1] if candidates else None
        if last is not None and origin_names(last) <= names:
            found[record.name] = last.name
    return found


def _differs(a: NodeRecord, b: NodeRecord, pairs: Pairs, stands_for: Mapping[str, str]) -> bool:
    if a is b or a.digest == b.digest:
        return False
    if a.name != b.name or not reads_others(a, b):
        return True
    return any(
        old != stands_for.get(new) and (new not in pairs or old != pairs[new].name)
        for old, new in zip(a.inputs, b.inputs, strict=True)
    )


def _moved(before: Snapshot, after: Snapshot, pairs: Pairs) -> tuple[str, ...]:
    place = {r.name: i for i, r in enumerate(before)}
    names = [r.name for r in after if r.name in pairs and r.op != "get_attr"]
    positions = [place[pairs[name].name] for name in names]
    if all(a < b for a, b in pairwise(positions)):
        return ()
    kept = longest_increasing(positions)
    return tuple(name for i, name in enumerate(names) if i not in kept)
