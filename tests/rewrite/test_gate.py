"""Only the rewriter changes a graph: no module calls fx's mutators, and a watch tells who did.

The watch looks at passes of ours only, told by the package that they are in. Foreign passes may use
plain fx: the manager takes over what they made, and history guesses what it stands for.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from tests.support.gate import BypassError
from tests.support.sources import nodes
from tests.test_floors import sources

X = torch.randn(2, 4)
Action = Callable[[fx.Graph, qfx.PassContext], None]


class Net(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.sigmoid() + x.relu()).tanh()


def run(action: Action, *, home: str) -> None:
    """Run a pass that does ``action`` and is in the package ``home``."""

    class Planted(qfx.Pass):
        name = "planted"
        keeps_values = False

        def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
            action(graph, ctx)

    Planted.__module__ = f"{home}.planted"
    qfx.run_passes(Net().eval(), [Planted()], X)


def the(graph: fx.Graph, op: vocab.OpDef) -> fx.Node:
    found: fx.Node = next(node for node in graph.nodes if node.target is op)
    return found


# -- what plain fx does ----------------------------------------------------------------------------


def add(graph: fx.Graph, ctx: qfx.PassContext) -> None:
    sigmoid = the(graph, vocab.SIGMOID)
    with graph.inserting_after(sigmoid):
        made = graph.call_function(vocab.GELU, (sigmoid,))
    sigmoid.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)


def remove(graph: fx.Graph, ctx: qfx.PassContext) -> None:
    tanh = the(graph, vocab.TANH)
    tanh.replace_all_uses_with(tanh.all_input_nodes[0])
    graph.erase_node(tanh)


def rewire(graph: fx.Graph, ctx: qfx.PassContext) -> None:
    the(graph, vocab.TANH).replace_input_with(the(graph, vocab.ADD), the(graph, vocab.SIGMOID))
    graph.erase_node(the(graph, vocab.ADD))
    graph.erase_node(the(graph, vocab.RELU))


def update(graph: fx.Graph, ctx: qfx.PassContext) -> None:
    the(graph, vocab.ADD).update_kwarg("alpha", 2)


def retarget(graph: fx.Graph, ctx: qfx.PassContext) -> None:
    the(graph, vocab.TANH).target = vocab.SIGMOID


def move(graph: fx.Graph, ctx: qfx.PassContext) -> None:
    the(graph, vocab.SIGMOID).prepend(the(graph, vocab.RELU))


def claim(graph: fx.Graph, ctx: qfx.PassContext) -> None:
    qfx.graph.meta.set_origins(the(graph, vocab.TANH), ())


SEEN = [
    (add, "added %gelu"),
    (remove, "removed %tanh"),
    (rewire, "removed %relu; removed %add; changed %tanh"),
    (update, "changed %add"),
    (retarget, "changed %tanh"),
    (move, "moved nodes"),
    (claim, "changed %tanh"),
]


@pytest.mark.parametrize(("action", "what"), SEEN)
def test_plain_fx_is_seen_in_a_pass_of_ours(action: Action, what: str) -> None:
    for home in ("qfx_passes", "qfx.backends.onednn"):
        with pytest.raises(BypassError, match=f"planted changed the graph beside .*: {what}"):
            run(action, home=home)


@pytest.mark.parametrize("action", [action for action, _ in SEEN])
def test_plain_fx_is_a_foreign_pass_s_right(action: Action) -> None:
    run(action, home="somebody")


def through_the_gate(graph: fx.Graph, ctx: qfx.PassContext) -> None:
    rw, sigmoid, relu = ctx.rewriter, the(graph, vocab.SIGMOID), the(graph, vocab.RELU)
    with rw.at(sigmoid.next):
        made = rw.call(vocab.GELU, sigmoid)
    rw.rewire(the(graph, vocab.ADD), relu, made)
    rw.update(the(graph, vocab.ADD), kwargs={"alpha": 2})
    rw.retarget(the(graph, vocab.TANH), vocab.SIGMOID)
    rw.erase_unread()
    rw.register("unread", torch.ones(1))


def test_what_goes_through_the_gate_is_none_of_it() -> None:
    run(through_the_gate, home="qfx_passes")


# -- who calls fx's mutators -----------------------------------------------------------------------

MUTATORS = {
    *("erase_node", "create_node", "call_function", "call_method", "call_module", "get_attr"),
    *("placeholder", "output", "node_copy", "graph_copy", "eliminate_dead_code", "process_inputs"),
    *("inserting_before", "inserting_after", "replace_all_uses_with", "replace_input_with"),
    *("update_arg", "update_kwarg", "insert_arg", "prepend", "set_submodule", "add_submodule"),
    *("delete_submodule", "delete_all_unused_submodules", "add_module", "register_module"),
    *("register_buffer", "register_parameter"),
}
SETTERS = {"set_arguments"}
"""Functions of ours that do what fx's mutators do."""
FIELDS = {"args", "kwargs", "target", "op", "name"}
GATES = {"rw", "rewriter", "_rewriter"}
"""What a rewriter is called."""

FREE = ("qfx.capture.", "qfx.rewrite.")
"""Where graphs are born, and the gate."""

EXCEPTIONS = {
    "qfx.engines.assembly": "makes the graph that calls engines, which nobody holds yet",
    "qfx.engines.containers": "makes the ends of graphs of pieces, which nobody holds yet",
    "qfx.engines.pieces": "makes the graphs of pieces, which nobody holds yet",
    "qfx.export.onnx.graph": "names values of the ONNX graph, which are no nodes of ours",
    "qfx.export.onnx.site_checks": "rewires values of the ONNX graph, which are no nodes of ours",
    "qfx.export.onnx.writer": "names nodes of the ONNX graph",
    "qfx.export.pt2e.forms": "rewrites programs of torch.export, which have no history of ours",
    "qfx.framework.checkpoint": "builds the graph of before a failed pass anew, for its error",
    "qfx.graph.attributes": "registers and drops what nodes refer to, for the rewriter",
    "qfx.graph.clone": "copies graphs, which nobody holds yet",
    "qfx.graph.copying": "rebuilds modules that can't be copied",
    "qfx.graph.in_place": "gives a module a parameter that tells dtypes, and that no node reads",
    "qfx.storage.attributes": "makes the modules of a file, which no graph reads yet",
    "qfx.storage.graphs": "makes the graph of a file, which nobody holds yet",
    "qfx_passes.canonical.norms": "gives a module back its counter, which no node reads",
    "qfx_passes.placement.settle_joins": "puts a copy of an observer in its place before merging",
}


def mutations(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The calls of mutators on something else than a rewriter, and the fields of nodes set."""
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            own = owner in ("self", "super()") or owner.rpartition(".")[2] in GATES
            if node.func.attr in MUTATORS and not own:
                yield f"{node.lineno}: {owner}.{node.func.attr}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in SETTERS:
            yield f"{node.lineno}: {ast.unparse(node.func)}"
        if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Store):
            continue
        if node.attr in FIELDS and ast.unparse(node.value) != "self":
            yield f"{node.lineno}: {ast.unparse(node)} ="


def mutating() -> dict[str, list[str]]:
    """The modules that mutate beside the gate, and where."""
    found: dict[str, Any] = {
        name: list(mutations(nodes(path)))
        for name, path in sources().items()
        if not name.startswith(FREE)
    }
    return {name: places for name, places in found.items() if places}


def test_only_the_rewriter_mutates() -> None:
    found = mutating()
    assert {name: places for name, places in found.items() if name not in EXCEPTIONS} == {}
    assert found.keys() == EXCEPTIONS.keys(), "an exception is needed no more"


@pytest.mark.parametrize(
    "text",
    [
        *("graph.erase_node(n)", "self.graph.call_module(path)", "n.replace_input_with(a, b)"),
        *("n.args = ()", "a.args, a.kwargs = (), {}", "owner.register_buffer('b', t)"),
        *("ctx.graph_module.set_submodule(path, m)", "set_arguments(n, (), {})"),
    ],
)
def test_a_mutation_is_found(text: str) -> None:
    assert list(mutations(ast.walk(ast.parse(text))))


@pytest.mark.parametrize("text", ["rw.call_module('m', m)", "self.rw.call_method('t', x)", "f(n)"])
def test_what_the_gate_does_is_no_mutation(text: str) -> None:
    assert not list(mutations(ast.walk(ast.parse(text))))
