"""Driving many rules over large graphs, beside plain walks over the same graphs.

    python -m benchmarks.rules [--nodes 25000 50000 100000] [--rules 100 300 1000] [--slowest 8]

The graph repeats a block of some twenty operations (convolutions, norms, attention, gates).
Patterns are drawn from a seed: an eighth of them over the operations of the graph, the others over
the whole vocabulary, of two to four operations with users and parameters. They look and find a
reason not to, as most rules do most of the time; one rewrites.

A walk is what a pass written by hand does once: it reads of every node what it calls, its arguments
and who reads it. The bar is three walks per hundred rules. Times are of the CPU, the best of three.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import fx, nn
from torch.fx.node import Argument

import qfx
from qfx import vocab
from qfx.graph.working import WorkingGraphModule
from qfx.history.events import RuleStatistics, rules_table
from qfx.rewrite import RewriteRule, drive
from qfx.rewrite.arguments import operand_names
from qfx.table import markdown
from qfx.vocab import OpDef

BAR = 3.0
"""Walks per hundred rules."""

_OWN = 8  # one rule in so many is over operations of the graph
_BLOCK = (
    *(vocab.CONV2D, vocab.BATCH_NORM, vocab.RELU, vocab.MAX_POOL2D, vocab.ADD, vocab.FLATTEN),
    *(vocab.LINEAR, vocab.LAYER_NORM, vocab.GELU, vocab.PERMUTE, vocab.MATMUL, vocab.SOFTMAX),
    *(vocab.RESHAPE, vocab.MUL, vocab.SIGMOID, vocab.TANH, vocab.SUB, vocab.CLAMP, vocab.MEAN),
)
_JOINS = (vocab.ADD, vocab.MATMUL, vocab.MUL, vocab.SUB)
_LAYERS = (vocab.CONV2D, vocab.LINEAR)


class Row(NamedTuple):
    """One measurement.

    Attributes:
        nodes, rules: how many.
        walk: seconds of one walk.
        seconds: what driving took.
        statistics: of every rule.
    """

    nodes: int
    rules: int
    walk: float
    seconds: float
    statistics: tuple[RuleStatistics, ...]

    @property
    def walks(self) -> float:
        """Walks per hundred rules."""
        return self.seconds / self.walk / (self.rules / 100)


def graph_of(nodes: int) -> fx.GraphModule:
    """A graph of so many calls; it is never run."""
    graph = fx.Graph()
    last = before = graph.placeholder("x")
    weight = graph.get_attr("weight")
    for position in range(nodes):
        op = _BLOCK[position % len(_BLOCK)]
        args, kwargs = ((last, before), {}) if op in _JOINS else _arguments(op, last, weight)
        before, last = last, graph.create_node("call_function", op, args, kwargs)
    graph.output(last)
    root = nn.Module()
    root.register_buffer("weight", torch.zeros(1))
    return WorkingGraphModule(root, graph)


def _arguments(
    op: OpDef, value: fx.Node, weight: fx.Node
) -> tuple[tuple[fx.Node, ...], dict[str, Argument]]:
    """Arguments for all that ``op`` can't do without."""
    needed = [p for p in op.signature.parameters.values() if p.default is p.empty]
    tensors = [p.name for p in needed if str(p.annotation) == "Tensor"]
    numbers: dict[str, Argument] = {p.name: 1 for p in needed if p.name not in tensors}
    return (value, *(weight for _ in tensors[1:])), numbers


def rules_of(count: int, seed: int = 0) -> tuple[RewriteRule, ...]:
    """So many rules, drawn from ``seed``; the last one rewrites a little."""
    drawn = random.Random(seed)
    everything = tuple(op for op in vocab.ops() if operand_names(op))
    made = []
    for position in range(count - 1):
        ops = _BLOCK if position % _OWN == 0 else everything
        pattern = _pattern(drawn, ops, drawn.choice((2, 2, 3, 4)))
        made.append(RewriteRule(pattern, _refuse, f"rule_{position}"))
    return (*made, every_hundredth)


def _pattern(
    drawn: random.Random, ops: Sequence[OpDef], depth: int, *, root: bool = True
) -> qfx.Op:
    """A pattern of ``depth`` operations, one below the other."""
    op = drawn.choice(ops)
    first = _pattern(drawn, ops, depth - 1, root=False) if depth > 1 else qfx.Any("x")
    operands: tuple[object, ...] = (first, qfx.Attr("w")) if op in _LAYERS else (first,)
    users = 1 if not root and drawn.random() < 0.5 else None
    return qfx.Op(op, *operands, users=users)


def _refuse(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node | qfx.Mismatch:
    return qfx.Mismatch("{0} is as it should be", match.root)


@qfx.rewrite(qfx.Op(vocab.TANH, qfx.Op(vocab.SIGMOID, qfx.Any("x")), bind="tanh"))
def every_hundredth(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node | qfx.Mismatch:
    """Replaces one in a hundred of what it matches."""
    if not match["tanh"].name.endswith("00"):
        return qfx.Mismatch("{0} stays", match.root)
    return rw.call(vocab.GELU, match["x"])


def measure(nodes: int, count: int, repeats: int = 3) -> Row:
    """Drive ``count`` rules over a graph of ``nodes`` calls."""
    rules = rules_of(count)
    measured = [_once(graph_of(nodes), rules) for _ in range(repeats)]
    walk = min(each.walk for each in measured)
    return min(measured, key=lambda each: each.seconds)._replace(walk=walk)


def _once(graph_module: fx.GraphModule, rules: Sequence[RewriteRule]) -> Row:
    nodes = len(graph_module.graph.nodes)
    walk = _seconds(lambda: walk_over(graph_module.graph))
    rewriter = qfx.Rewriter(graph_module, pass_name="rules", infers=False)
    seconds = _seconds(lambda: drive(rules, rewriter))
    return Row(nodes, len(rules), walk, seconds, tuple(rewriter.statistics.values()))


def walk_over(graph: fx.Graph) -> int:
    """Read what a pass by hand reads of every node; returns how many arguments and readers."""
    found = 0
    for node in graph.nodes:
        if node.op != "call_function" or node.target not in _BLOCK:
            continue
        found += len(node.args) + len(node.kwargs) + len(node.users)
    return found


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of measurements."""
    header = ("nodes", "rules", "walk ms", "driving ms", "us a node", "walks per 100 rules")
    return markdown(header, [_cells(row) for row in rows])


def _cells(row: Row) -> tuple[str, ...]:
    return (
        f"{row.nodes:,}",
        f"{row.rules:,}",
        f"{1e3 * row.walk:.1f}",
        f"{1e3 * row.seconds:.0f}",
        f"{1e6 * row.seconds / row.nodes:.1f}",
        f"{row.walks:.2f}",
    )


def _seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.rules",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=[25_000, 50_000, 100_000])
    parser.add_argument("--rules", type=int, nargs="+", default=[100, 300, 1_000])
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--slowest", type=int, default=8, help="how many rules to list")
    given = parser.parse_args(argv)
    rows = [measure(n, r, given.repeats) for r in given.rules for n in given.nodes]
    print(table(rows))
    last = rows[-1]
    tried = sum(rule.attempts for rule in last.statistics)
    print(
        f"\nThe bar is {BAR:.0f} walks per hundred rules. Of {last.rules:,} rules over "
        f"{last.nodes:,} nodes {tried / last.nodes:.2f} were tried at a node; the slowest:\n"
    )
    print("\n".join(rules_table(last.statistics).splitlines()[: given.slowest + 2]))


if __name__ == "__main__":
    main()
