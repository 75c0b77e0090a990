"""Random passes over random models: right ones keep everything, broken ones are told.

    python tools/fuzz_passes.py --seeds 10000          # a quarter of an hour and more
    python tools/fuzz_passes.py --seeds 100 --from 500 --broken

Each seed makes a model of a few operations and some passes: built-in ones, and one of rules drawn
from a list of valid rewrites. Held against each: outputs are equal, every node that came, went or
changed has an event, and every computation knows what it comes from. With ``--broken`` a pass does
one thing wrong, and has to be a PassError that names it and the node.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import fx

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "passes")]  # so that it runs from a checkout

import qfx  # noqa: E402
from qfx import vocab  # noqa: E402
from qfx.graph import meta  # noqa: E402
from qfx.rewrite import RewriteRule  # noqa: E402
from qfx.testing import fuzz, generate  # noqa: E402

BUILTIN = ("canonicalize", "fold-constants", "fuse-conv-bn", "fuse-pads")
X, Y = qfx.Any("x"), qfx.Any("y")


def _as_captured(node: fx.Node) -> bool:
    """Whether no rule of this file made ``node``: each applies once."""
    return not meta.rule_of(node).startswith("generated/")


@qfx.rewrite(qfx.Op(vocab.RELU, X))
def relu_by_clamp(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    """relu(x) = clamp(x, min=0)."""
    return rw.call(vocab.CLAMP, match["x"], min=0.0)


@qfx.rewrite(qfx.Op(vocab.SILU, X))
def silu_by_sigmoid(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    """silu(x) = x * sigmoid(x)."""
    return rw.call(vocab.MUL, match["x"], rw.call(vocab.SIGMOID, match["x"]))


@qfx.rewrite(qfx.Op(vocab.ADD, X, Y, alpha=1, where=_as_captured))
def swapped_sum(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node | qfx.Mismatch:
    """X + y = y + x."""
    if not (match.get("x") and match.get("y")):
        return qfx.Mismatch("adds a number")
    return rw.call(vocab.ADD, match["y"], match["x"])


@qfx.rewrite(qfx.Op(vocab.ADD, X, Y, alpha=2))
def doubled_sum(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    """X + 2 y in two steps."""
    return rw.call(vocab.ADD, match["x"], rw.call(vocab.MUL, match["y"], 2))


@qfx.rewrite(qfx.Op(vocab.LINEAR, X, qfx.Attr("w"), bias=qfx.Attr("b")))
def bias_apart(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    """X W^T + b as a sum."""
    return rw.call(vocab.ADD, rw.call(vocab.LINEAR, match["x"], match["w"]), match["b"])


@qfx.rewrite(qfx.Op(vocab.RELU, X, where=_as_captured))
def relu_twice(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    """relu(relu(x)) = relu(x)."""
    return rw.call(vocab.RELU, rw.call(vocab.RELU, match["x"]))


@qfx.rewrite(qfx.Op(vocab.TANH, X, where=_as_captured))
def odd_tanh(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    """tanh(x) = -tanh(-x)."""
    return rw.call(vocab.MUL, rw.call(vocab.TANH, rw.call(vocab.MUL, match["x"], -1)), -1)


RULES = (
    relu_by_clamp + silu_by_sigmoid + swapped_sum + doubled_sum + bias_apart + relu_twice + odd_tanh
)


def generated(drawn: random.Random) -> type[qfx.Pass]:
    """A pass of some of the rules, in some order."""
    chosen: tuple[RewriteRule, ...] = tuple(drawn.sample(RULES, drawn.randint(1, 4)))

    class Generated(qfx.PatternPass):
        name = "generated"
        patterns = chosen

    return Generated


def passes_of(seed: int) -> list[type[qfx.Pass]]:
    """Built-in passes in the order in which they fit, and a generated one after them."""
    drawn = random.Random(seed)
    names = [name for name in BUILTIN if drawn.random() < 0.4]
    return [*(qfx.get_pass(name) for name in names), generated(drawn)]


def is_whole(history: qfx.History) -> None:
    """Every change has an event, and every computation knows what it comes from."""
    stages = list(history)
    for before, stage in itertools.pairwise(stages):
        missing = sorted(without_event(before.snapshot, stage))
        assert not missing, f"{stage.title} has no event for {', '.join(missing)}"
        for record in stage.snapshot:
            place = f"%{record.name} of stage {stage.title}"
            known = record.origins or not record.op.startswith("call_")
            assert known, f"{place} has no origin"
            assert record.name in stages[0].snapshot or record.rule, f"{place} has no maker"


def without_event(before: qfx.Snapshot, stage: qfx.Stage) -> Iterator[str]:
    """Nodes that came, went or changed in a stage without an event that says so."""
    was, now = ({r.name: r.digest for r in view} for view in (before, stage.snapshot))
    told = {n for e in stage.events for n in (*e.added, *e.removed, *e.changed)}
    yield from (name for name in was.keys() ^ now.keys() if name not in told)
    yield from (n for n in was.keys() & now.keys() if was[n] != now[n] and n not in told)


# -- broken passes --------------------------------------------------------------------------------
Break = Callable[[fx.Graph, fx.Node, qfx.Rewriter], None]


def wrong_shape(graph: fx.Graph, node: fx.Node, rw: qfx.Rewriter) -> None:
    """Flatten where what reads it expects dims."""
    rw.replace(node, rw.call(vocab.FLATTEN, node, start_dim=0))


def wrong_dtype(graph: fx.Graph, node: fx.Node, rw: qfx.Rewriter) -> None:
    """Doubles where floats were."""
    rw.replace(node, rw.call_method("double", node))


def wrong_arity(graph: fx.Graph, node: fx.Node, rw: qfx.Rewriter) -> None:
    """An operation with too many operands."""
    made = rw.call(vocab.RELU, node)
    rw.replace(node, made)
    rw.update(made, args=(node, node, node))


def dangling(graph: fx.Graph, node: fx.Node, rw: qfx.Rewriter) -> None:
    """What nothing reads."""
    rw.call(torch.neg, node)


def cycle(graph: fx.Graph, node: fx.Node, rw: qfx.Rewriter) -> None:
    """A node that reads what comes after it."""
    made = graph.call_function(torch.neg, (node,))
    node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
    made.args = (made,)


def erased(graph: fx.Graph, node: fx.Node, rw: qfx.Rewriter) -> None:
    """A node that reads what is erased."""
    made = graph.call_function(torch.neg, (node,))
    gone = graph.call_function(torch.neg, (node,))
    node.replace_all_uses_with(made, delete_user_cb=lambda user: user not in (made, gone))
    graph.erase_node(gone)
    made.args = (gone,)


def wrong_numbers(graph: fx.Graph, node: fx.Node, rw: qfx.Rewriter) -> None:
    """The same shape, other values."""
    rw.replace(node, rw.call(vocab.ADD, node, 1.5))


def raises(graph: fx.Graph, node: fx.Node, rw: qfx.Rewriter) -> None:
    """An exception of the author's."""
    raise KeyError(node.name)


BREAKS: tuple[Break, ...] = (
    wrong_shape, wrong_dtype, wrong_arity, dangling, cycle, erased, wrong_numbers, raises,
)  # fmt: skip


PLAIN = (cycle, erased)
"""What is done beside the rewriter, which knows of no rule then."""


def broken(how: Break) -> type[qfx.Pass]:
    """A pass that does one thing wrong, to the last operation that the model returns."""

    class Broken(qfx.Pass):
        name = "broken-" + how.__name__.replace("_", "-")
        requires = qfx.Level.CANONICAL

        def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
            output = next(iter(reversed(graph.nodes)))
            node = output.all_input_nodes[0]
            with ctx.rewriter.at(output), ctx.rewriter.named("rule"):
                how(graph, node, ctx.rewriter)

    return Broken


def is_told(how: Break, seed: int) -> str:
    """What is wrong with the error of a broken pass on the model of a seed; "" if nothing is."""
    program, kind = generate(seed), broken(how)
    try:
        qfx.run_passes(program.build(), [qfx.get_pass("canonicalize"), kind], program.example())
    except qfx.PassError as error:
        lacks = [
            word
            for word, there in (
                ("pass", error.pass_name == kind.name and kind.name in str(error)),
                ("rule", how in PLAIN or error.rule == "rule"),
                ("node", bool(error.node) and f"%{error.node}" in str(error)),
                ("graph", error.graph_module is not None),
            )
            if not there
        ]
        return f"the error lacks {', '.join(lacks)}: {str(error)[:200]}" if lacks else ""
    except Exception as error:
        return f"{type(error).__name__} in place of PassError: {error}"
    return "nothing was raised"


# -- the command ----------------------------------------------------------------------------------
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="fuzz_passes.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=100, help="how many models (%(default)s)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--broken", action="store_true", help="passes that do something wrong")
    given = parser.parse_args(argv)
    seeds = range(given.first, given.first + given.seeds)
    return _run_broken(seeds) if given.broken else _run_right(seeds)


def _run_right(seeds: Sequence[int]) -> int:
    fired: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", qfx.QfxWarning)  # one model need not have what rules want
        for seed in seeds:
            fired.update(fuzz(passes_of(seed), [seed], watch=is_whole).fired)
    print(f"{len(seeds)} models hold; rules fired: {dict(fired.most_common())}")
    return 0


def _run_broken(seeds: Sequence[int]) -> int:
    untold = 0
    for seed in seeds:
        how = BREAKS[seed % len(BREAKS)]
        wrong = is_told(how, seed)
        if wrong:
            untold += 1
            print(f"seed {seed}, {how.__name__}: {wrong}")
    print(f"{len(seeds) - untold} of {len(seeds)} broken passes are told")
    return 1 if untold else 0


if __name__ == "__main__":
    sys.exit(main())
