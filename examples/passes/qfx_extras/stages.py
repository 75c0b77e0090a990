"""split-stages: a graph in stages for a pipeline of devices, of nearly the same work each.

Work is counted in multiply-accumulates. Stage k ends within ``slack`` of a stage's share of where
k/n of the work is done, in graph order; between the calls that have to stand before and those that
have to stand after, the cut is the one across which fewest bytes are sent. That is a minimum cut:

    source -> calls before the window          calls after it -> sink
    call -> its value, as many bytes as that has (once, however many read it)
    value -> each that reads it, and back, without limit: nothing flows backwards

so that every edge goes from a stage to the same or a later one. :func:`stages_of` makes a module of
each stage; run one after the other they compute what the graph does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import networkx as nx
from torch import fx, nn

import qfx
from qfx import vocab

_SOURCE, _SINK = "source", "sink"
_NUMBER_BYTES = 8


class SplitStages(qfx.Pass):
    """Record of each call which stage it belongs to.

    Attributes:
        stages: how many.
        slack: how far a cut may be from where it balances, as a fraction of a stage's share.
    """

    name = "split-stages"
    requires = qfx.Level.CANONICAL
    stages: int = 2
    slack: float = 0.1

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        """Record ``stage`` of each call and input, and of the output how even the stages are."""
        self._check(graph)
        stage_of = dict.fromkeys(graph.nodes, self.stages - 1)
        before: set[fx.Node] = set()
        for cut in range(1, self.stages):
            before = _cut(graph, before, *self._window(graph, cut))
            for node in before:
                stage_of[node] = min(stage_of[node], cut - 1)
        for node, stage in stage_of.items():
            if node.op != "get_attr":
                ctx.record(node, "stage", stage)
        shares = _shares(stage_of, self.stages)
        output = next(iter(reversed(graph.nodes)))
        ctx.record(output, "largest_share", max(shares))

    def _check(self, graph: fx.Graph) -> None:
        """Refuse what can't be split.

        Raises:
            qfx.ConfigError: the options, or the graph; the message says why.
        """
        if self.stages < 1 or not 0 <= self.slack < 0.5:
            raise qfx.ConfigError(
                f"{self} makes no sense: stages is 1 or more, and slack at least 0 and below 0.5"
            )
        writer = next((node for node in graph.nodes if qfx.overwrites(node)), None)
        if writer is not None:
            raise qfx.ConfigError(
                f"%{writer.name} writes to its operand in place, which may lie on another device; "
                "let it yield a new value (x = f(x) for f_(x))"
            )
        if not any(map(qfx.macs, graph.nodes)):
            raise qfx.ConfigError("the graph has no multiply-accumulates, by which to balance")

    def _window(self, graph: fx.Graph, cut: int) -> tuple[set[fx.Node], set[fx.Node]]:
        """The nodes that have to come before a cut, and those that have to come after it."""
        nodes = list(graph.nodes)
        done = list(accumulate(map(qfx.macs, nodes)))
        share = done[-1] / self.stages
        low, high = (cut - self.slack) * share, (cut + self.slack) * share
        before = {node for node, sum_ in zip(nodes, done, strict=True) if sum_ <= low}
        after = {
            node
            for node, sum_ in zip(nodes, done, strict=True)
            if sum_ - qfx.macs(node) >= high and node not in before
        }
        return before, after | {nodes[-1]}


def _cut(
    graph: fx.Graph, earlier: set[fx.Node], before: set[fx.Node], after: set[fx.Node]
) -> set[fx.Node]:
    """The nodes on the near side of the cheapest cut, those of earlier stages among them."""
    flow = nx.DiGraph()
    acting: fx.Node | None = None
    for node in graph.nodes:
        if node.op == "get_attr":
            continue  # goes where it is read
        if node in earlier or node in before or node.op == "placeholder":
            flow.add_edge(_SOURCE, node)
        elif node in after:
            flow.add_edge(node, _SINK)
        value = ("value", node)
        flow.add_edge(node, value, capacity=_bytes(node))
        for reader in node.users:
            flow.add_edge(value, reader)
            flow.add_edge(reader, node)
        if node.op.startswith("call_") and qfx.has_effect(node):
            if acting is not None:
                flow.add_edge(node, acting)  # what acts keeps its order
            acting = node
    _, (near, _) = nx.minimum_cut(flow, _SOURCE, _SINK)
    return {each for each in near if isinstance(each, fx.Node)}


def _bytes(node: fx.Node) -> int:
    """How many bytes are sent where a stage reads what another makes."""
    info = qfx.tensor_info(node)
    if info is not None:
        return info.numel * info.dtype.itemsize
    parts = [user for user in node.users if user.target is vocab.GETITEM]
    return max(_NUMBER_BYTES, sum(map(_bytes, parts)))


def _shares(stage_of: Mapping[fx.Node, int], stages: int) -> list[float]:
    """The fraction of the work that each stage does."""
    work = [0] * stages
    for node, stage in stage_of.items():
        work[stage] += qfx.macs(node)
    return [each / sum(work) for each in work]


# -- stages as modules ---------------------------------------------------------------------------
class Stages(nn.Module):
    """A model in stages, run one after the other: what a pipeline of devices computes.

    Every stage takes what the one before it hands on, and hands on a tuple; the last one returns
    what the model does.
    """

    def __init__(self, stages: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, *args: object, **kwargs: object) -> object:
        """Run all stages."""
        first, *others = self.stages
        values = first(*args, **kwargs)
        for stage in others:
            values = stage(*values)
        return values


def stages_of(graph_module: fx.GraphModule) -> Stages:
    """The stages of a graph that ``split-stages`` ran over, as modules that share its weights.

    Raises:
        qfx.ConfigError: it did not.
    """
    stage_of = _recorded(graph_module)
    nodes = [node for node in graph_module.graph.nodes if node in stage_of]
    count = 1 + max(stage_of.values())
    sent = [
        [node for node in nodes if stage_of[node] < k and _is_read_from(k, node, stage_of)]
        for k in range(count)
    ]
    return Stages(
        _stage(
            graph_module,
            sent[k],
            [node for node in nodes if stage_of[node] == k],
            sent[k + 1] if k + 1 < count else None,
        )
        for k in range(count)
    )


def stage_table(graph_module: fx.GraphModule) -> str:
    """What each stage does and hands on, as text.

    Raises:
        qfx.ConfigError: ``split-stages`` did not run over the graph.
    """
    stage_of = _recorded(graph_module)
    shares = _shares(stage_of, 1 + max(stage_of.values()))
    lines = ["stage  calls     MACs  share  bytes handed on"]
    for k, share in enumerate(shares):
        calls = [n for n, stage in stage_of.items() if stage == k and n.op.startswith("call_")]
        work = sum(map(qfx.macs, calls))
        sent = sum(
            _bytes(n)
            for n, stage in stage_of.items()
            if stage <= k and _is_read_from(k + 1, n, stage_of)
        )
        lines.append(f"{k:5}  {len(calls):5}  {work:7,}  {share:5.1%}  {sent:15,}")
    return "\n".join(lines)


def _recorded(graph_module: fx.GraphModule) -> dict[fx.Node, int]:
    """The stage of each node but parameters."""
    found = {r.name: dict(r.findings).get("stage") for r in qfx.snapshot(graph_module)}
    stage_of = {node: found[node.name] for node in graph_module.graph.nodes}
    missing = [n.name for n, stage in stage_of.items() if stage is None and n.op != "get_attr"]
    if missing:
        raise qfx.ConfigError(
            f"no stage is recorded of %{missing[0]}: run the pass split-stages last"
        )
    return {node: int(stage) for node, stage in stage_of.items() if stage is not None}


def _is_read_from(stage: int, node: fx.Node, stage_of: Mapping[fx.Node, int]) -> bool:
    """Whether ``stage`` or a later one reads ``node``."""
    return any(stage_of[user] >= stage for user in node.users)


def _stage(
    graph_module: fx.GraphModule,
    taken: Sequence[fx.Node],
    own: Sequence[fx.Node],
    handed_on: Sequence[fx.Node] | None,
) -> fx.GraphModule:
    graph = fx.Graph()
    made = {node: graph.placeholder(node.name) for node in taken}
    for node in own:
        for each in node.all_input_nodes:
            if each.op == "get_attr" and each not in made:
                made[each] = graph.node_copy(each)
        made[node] = graph.node_copy(node, made.__getitem__)
    if handed_on is not None:
        graph.output(tuple(made[node] for node in handed_on))
    return fx.GraphModule(graph_module, graph)
