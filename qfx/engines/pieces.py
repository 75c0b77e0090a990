"""Partition: which nodes of a graph an engine runs, in as few pieces as the order allows.

Every node has a side, inside or outside, and a depth:

    depth(node) = the smallest even (inside) or odd (outside) number that no operand's depth exceeds

Nodes inside of one depth are a piece. Depths don't fall along any path, so that no piece waits for
itself. What touches memory that somebody writes to, or acts, keeps its order: it counts as an
operand of what touches memory after it.

Weights, and numbers computed of sizes, belong to no side: they are copied to where they are read.
Guards are left out: who runs the pieces asks them (:mod:`qfx.engines.admission`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain

from torch import fx

from qfx import vocab
from qfx.engines.containers import is_state, takes_element, tensors_of
from qfx.export.onnx.seen import SeenRanges
from qfx.export.problems import CannotWrite, Problem, problem
from qfx.graph import meta
from qfx.graph.clone import copy_node
from qfx.graph.containers import makes_container
from qfx.graph.effects import changing, has_effect, shares_memory
from qfx.graph.macs import macs
from qfx.graph.working import WorkingGraphModule
from qfx.vocab import Kind, OpDef, is_op

_SMALLEST = 0.01
"""The multiply-accumulates of a piece that is made, as a fraction of those of the largest."""


class PartitionSide(Enum):
    """The places where a node may run."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    CARRIED = "carried"  # copied to where it is read
    GIVEN = "given"  # inputs, what is taken out of them, and state that is written to


@dataclass(eq=False)
class Piece:
    """A part of a graph that one call of an engine runs.

    Attributes:
        graph_module: takes tensors, and yields a tuple of tensors.
        inputs, outputs: the nodes of the whole graph that these are; of an output that is a
            container, the tensors in it.
        macs: its multiply-accumulates, with the example inputs.
        seen: what its operations were seen to yield, for forms that round more of it.
        notes: what engines keep with it, by their own keys.
    """

    graph_module: fx.GraphModule
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    macs: int
    seen: SeenRanges = field(default_factory=SeenRanges)
    notes: dict[object, object] = field(default_factory=dict)

    @property
    def yields_one(self) -> bool:
        """Whether it yields one tensor."""
        (output,) = self.graph_module.graph.find_nodes(op="output")
        return len(output.all_input_nodes) == 1

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of its inputs, as they were captured."""
        infos = (meta.tensor_info(node) for node in self.inputs)
        return tuple(() if info is None else tuple(info.shape) for info in infos)


@dataclass(frozen=True)
class Partition:
    """How a graph is run.

    Attributes:
        steps: pieces, and nodes that eager runs between them, in order.
        carried: the nodes that are copied to where they are read.
        outside: why nodes are outside, where it is not plain.
        macs: multiply-accumulates of the whole.
    """

    steps: tuple[Piece | fx.Node, ...]
    carried: frozenset[fx.Node]
    outside: tuple[Problem, ...]
    macs: int

    @property
    def is_plain(self) -> bool:
        """Whether eager computes nothing."""
        nodes = (step for step in self.steps if isinstance(step, fx.Node))
        return all(node.op == "placeholder" for node in nodes)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces alone."""
        return tuple(step for step in self.steps if isinstance(step, Piece))


def partition(graph_module: fx.GraphModule, refused: Mapping[str, Problem]) -> Partition:
    """The pieces of a graph.

    Args:
        graph_module: the graph.
        refused: what can't be inside, by the name of the node.
    """
    known = dict(refused)
    while True:
        layout = _Layout(graph_module, known)
        more = {p.node: p for p in (*layout.unfit(), *layout.too_small())}
        if not more:
            return layout.plan()
        known.update(more)


class _Layout:
    """Sides and depths of all nodes."""

    def __init__(self, graph_module: fx.GraphModule, refused: Mapping[str, Problem]) -> None:
        self.module = graph_module
        self.refused = refused
        self.side: dict[fx.Node, PartitionSide] = {}
        self.depth: dict[fx.Node, int] = {}
        self._changing = changing(graph_module.graph)
        self._by_caller: set[fx.Node] = set()  # numbers that callers give, and what follows of them
        latest = 0  # of what touched memory that is written to
        for node in graph_module.graph.nodes:
            if is_op(node, vocab.GUARD) or node.op == "output":
                continue
            side = self.side[node] = self._side(node)
            depth = max((self.depth[read] for read in node.all_input_nodes), default=0)
            touches = side is not PartitionSide.CARRIED and self._touches(node)
            depth = max(depth, latest) if touches else depth
            odd = 0 if side is PartitionSide.INSIDE else 1
            settled = side in (PartitionSide.CARRIED, PartitionSide.GIVEN) or self._is_element(node)
            self.depth[node] = depth if settled or depth % 2 == odd else depth + 1
            latest = max(latest, self.depth[node]) if touches else latest
        self.groups = self._groups()

    def _side(self, node: fx.Node) -> PartitionSide:
        if node.op == "placeholder":
            if meta.value_of(node) is None:
                self._by_caller.add(node)
            return PartitionSide.GIVEN
        if node.op == "get_attr":
            return PartitionSide.GIVEN if node in self._changing else PartitionSide.CARRIED
        reads = node.all_input_nodes
        if _is_number(node):
            if any(read in self._by_caller for read in reads):
                self._by_caller.add(node)
            return PartitionSide.CARRIED
        if self._is_element(node):
            if self.side[reads[0]] is PartitionSide.GIVEN and meta.value_of(node) is None:
                self._by_caller.add(node)
            return self.side[reads[0]]
        if node.name in self.refused or any(read in self._by_caller for read in reads):
            return PartitionSide.OUTSIDE
        if reads and all(self._is_constant(read) for read in reads) and is_op(node, *_OF_WEIGHTS):
            return PartitionSide.CARRIED
        if makes_container(node) or isinstance(node.target, type) or node.op == "call_module":
            return PartitionSide.OUTSIDE
        if has_effect(node) or (node in self._changing and shares_memory(node)):
            return PartitionSide.OUTSIDE
        return PartitionSide.INSIDE

    def _is_constant(self, node: fx.Node) -> bool:
        return self.side[node] is PartitionSide.CARRIED and not _is_number(node)

    def _is_element(self, node: fx.Node) -> bool:
        """Whether ``node`` takes something out of what another node, or a caller, made."""
        first = node.all_input_nodes[:1]
        if (
            not first
            or not takes_element(node)
            or isinstance(meta.value_of(first[0]), meta.TensorInfo)
        ):
            return False
        return self.side[first[0]] is not PartitionSide.CARRIED

    def _touches(self, node: fx.Node) -> bool:
        if node.op == "placeholder":
            return False
        memory = (node, *node.all_input_nodes)
        acts = has_effect(node) and not isinstance(node.target, OpDef)
        return acts or any(each in self._changing for each in memory)

    def _groups(self) -> dict[int, list[fx.Node]]:
        found: dict[int, list[fx.Node]] = defaultdict(list)
        for node, side in self.side.items():
            if side is PartitionSide.INSIDE:
                found[self.depth[node]].append(node)
        return dict(sorted(found.items()))

    # -- what can't be ----------------------------------------------------------------------------
    def unfit(self) -> Iterator[Problem]:
        """Nodes that yield neither tensors nor states to others than their own elements."""
        for nodes in self.groups.values():
            for node in nodes:
                if meta.tensor_info(node) is not None or is_state(node, self._made_by(node)):
                    continue
                users = (user for user in node.users if not _only_guarded(user))
                if meta.value_of(node) is None or not all(map(takes_element, users)):
                    what = "what it yields is no tensor, and is read by others"
                    yield problem(self._made_by(node), CannotWrite(what, "Return tensors."))

    def _made_by(self, node: fx.Node) -> fx.Node:
        """The node that made what ``node`` is an element of; itself, if it is none."""
        while self._is_element(node):
            node = node.all_input_nodes[0]
        return node

    def too_small(self) -> Iterator[Problem]:
        """Nodes of pieces that compute next to nothing."""
        counts = {depth: sum(map(macs, nodes)) for depth, nodes in self.groups.items()}
        least = _SMALLEST * max(counts.values(), default=0)
        keep = max(counts, key=lambda depth: (counts[depth], len(self.groups[depth])), default=0)
        for depth, nodes in self.groups.items():
            if depth != keep and (counts[depth] < least or not counts[depth]):
                what = "a piece of its own would be too small to pay"
                yield from (problem(node, CannotWrite(what, "Nothing.")) for node in nodes)

    # -- the plan ---------------------------------------------------------------------------------
    def plan(self) -> Partition:
        """Pieces and nodes in the order of their depths."""
        carried = frozenset(n for n, side in self.side.items() if side is PartitionSide.CARRIED)
        loose = [
            n for n, s in self.side.items() if s in (PartitionSide.OUTSIDE, PartitionSide.GIVEN)
        ]
        (output,) = self.module.graph.find_nodes(op="output")
        roots = [set(roots_of(nodes, carried)) for nodes in self.groups.values()]
        alone = set(roots_of([*loose, output], carried))
        steps: dict[int, list[Piece | fx.Node]] = defaultdict(list)
        for node in loose:
            steps[-1 if self.side[node] is PartitionSide.GIVEN else self.depth[node]].append(node)
        for index, (depth, nodes) in enumerate(self.groups.items()):
            others = alone.union(*(r for i, r in enumerate(roots) if i != index))
            outputs = tuple(node for node in nodes if node in others)
            if outputs:
                steps[depth].append(_piece(self.module, nodes, outputs, carried))
        ordered = tuple(step for depth in sorted(steps) for step in steps[depth])
        outside = (self.refused[n.name] for n in loose if n.name in self.refused)
        total = sum(macs(node) for node in self.side)
        return Partition(ordered, carried, tuple(outside), total)


_OF_WEIGHTS = (*vocab.RESTORING, vocab.CAST)


def _is_number(node: fx.Node) -> bool:
    """Whether ``node`` yields a number, a shape, a dtype, or a part of one."""
    if takes_element(node):
        return any(map(_is_number, node.all_input_nodes[:1]))
    return isinstance(node.target, OpDef) and node.target.kind is Kind.QUERY


def _only_guarded(node: fx.Node) -> bool:
    """Whether ``node`` is a guard, which is left out, or a number that nothing else reads."""
    if is_op(node, vocab.GUARD):
        return True
    return _is_number(node) and all(map(_only_guarded, node.users))


def roots_of(nodes: Iterable[fx.Node], carried: frozenset[fx.Node]) -> dict[fx.Node, None]:
    """What ``nodes`` read beside each other, through what is carried to them, in order."""
    own = set(nodes)
    found: dict[fx.Node, None] = {}
    seen: set[fx.Node] = set()
    stack = [read for node in nodes for read in node.all_input_nodes][::-1]
    while stack:
        node = stack.pop()
        if node in own or node in seen:
            continue
        seen.add(node)
        if node in carried:
            stack.extend(node.all_input_nodes[::-1])
        else:
            found[node] = None
    return found


def _piece(
    module: fx.GraphModule,
    nodes: Sequence[fx.Node],
    outputs: tuple[fx.Node, ...],
    carried: frozenset[fx.Node],
) -> Piece:
    inputs = tuple(roots_of(nodes, carried))
    graph = fx.Graph()
    now: dict[fx.Node, fx.Node] = {}
    for node in inputs:
        made = now[node] = graph.create_node("placeholder", node.name, name=node.name)
        made.meta = dict(node.meta)
    for node in nodes:
        copy_into(graph, node, now, carried)
    parts = (tensors_of(graph, now[node], meta.value_of(node)) for node in outputs)
    graph.output(tuple(chain.from_iterable(parts)))
    count = sum(map(macs, nodes))
    return Piece(WorkingGraphModule(module, graph), inputs, outputs, count)


def copy_into(
    graph: fx.Graph, node: fx.Node, now: dict[fx.Node, fx.Node], carried: frozenset[fx.Node]
) -> None:
    """Copy ``node`` to the end of ``graph``, after what is carried to it."""
    for read in node.all_input_nodes:
        if read in carried and read not in now:
            copy_into(graph, read, now, carried)
    now[node] = copy_node(node, graph, now)
