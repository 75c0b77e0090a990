"""What every graph must satisfy, checked after every pass in one walk.

All that ``Graph.lint`` checks (whose messages print the whole graph), and what it omits:
one output, and it is last; arity against the vocabulary and operator schemas; user lists that agree
with the arguments; no submodule, parameter or buffer that no node uses. Levels add predicates of
their own (:mod:`qfx.framework.level_checks`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import fx, nn

from qfx.errors import VerifyError
from qfx.graph import meta
from qfx.graph.attributes import orphans
from qfx.graph.lookup import Lookup
from qfx.graph.text import target_name
from qfx.private_attributes import is_erased
from qfx.torch_private import OVERLOAD, pytree, schema_arguments
from qfx.vocab import OpDef, bound_plainly

Fitting: TypeAlias = set[tuple[object, int, tuple[str, ...]]]
"""What is called, the number of arguments by position, names of the others: found to fit."""

_OPS = ("placeholder", "get_attr", "call_function", "call_method", "call_module", "output")


def verify(graph_module: fx.GraphModule, fitting: Fitting | None = None) -> None:
    """Check a graph and its owner.

    Args:
        graph_module: whose graph to check.
        fitting: calls found to fit so far, and now; who checks a graph again keeps it.

    Raises:
        VerifyError: at the first fault; its ``node`` names the node.
    """
    if graph_module.graph.owning_module is not graph_module:
        raise VerifyError(
            "the graph belongs to another module; a pass changes the graph it is given in place"
        )
    _check_output(graph_module.graph)
    _VerifyWalk(graph_module, set() if fitting is None else fitting).run()
    for owner, name in orphans(graph_module):
        raise VerifyError(
            f"nothing uses {name!r} of {type(owner).__name__} any more; erase what is left over "
            "through ctx.rewriter, which also drops it from the model"
        )


class Interface:
    """Inputs and output structure of a graph, which no pass may change."""

    def __init__(self, graph: fx.Graph) -> None:
        self.inputs = _inputs(graph)
        self.output = _output_structure(graph)

    def check(self, graph: fx.Graph) -> None:
        """Raise VerifyError if ``graph`` takes or returns anything else."""
        inputs = _inputs(graph)
        if inputs != self.inputs:
            before, after = ", ".join(self.inputs), ", ".join(inputs)
            names = [n.name for n in graph.nodes if n.op == "placeholder"]
            others = (n for n, now in zip(names, inputs, strict=True) if now not in self.inputs)
            raise VerifyError(
                f"the inputs were ({before}) and are ({after}) now", node=next(others, None)
            )
        output = _output_structure(graph)
        if output != self.output:
            raise VerifyError(f"the output was {self.output} and is {output} now", node="output")


def _inputs(graph: fx.Graph) -> tuple[str, ...]:
    """Names of the inputs; an optional one ends in "=..."."""
    inputs = (n for n in graph.nodes if n.op == "placeholder")
    return tuple(f"{n.target}=..." if n.args else str(n.target) for n in inputs)


def _output_structure(graph: fx.Graph) -> str:
    last = next(iter(reversed(graph.nodes)))
    if last.op != "output":
        return "missing"
    leaves, spec = pytree.tree_flatten(last.args[0])
    shown = iter("*" if isinstance(leaf, fx.Node) else "none" for leaf in leaves)
    return str(pytree.tree_unflatten(list(shown), spec)).replace("'", "")


def _check_output(graph: fx.Graph) -> None:
    outputs = [node for node in graph.nodes if node.op == "output"]
    if not outputs:
        raise VerifyError("the graph has no output; the output node may not be removed")
    if len(outputs) > 1:
        names = ", ".join(f"%{n.name}" for n in outputs)
        raise VerifyError(f"the graph has {len(outputs)} outputs: {names}", node=outputs[1].name)
    last = next(iter(reversed(graph.nodes)))
    if last is not outputs[0]:
        raise VerifyError(
            f"the output is not the last node: {meta.where(last)} comes after it", node=last.name
        )


class _VerifyWalk:
    """One walk in graph order."""

    def __init__(self, graph_module: fx.GraphModule, fitting: Fitting) -> None:
        self.graph = graph_module.graph
        self.seen: set[fx.Node] = set()
        self.names: set[str] = set()
        self.lookup = Lookup(graph_module)
        self.resolved: dict[str, object] = {}
        self.fitting = fitting

    def run(self) -> None:
        for node in self.graph.nodes:
            self._check_node(node)
            for operand in node.all_input_nodes:
                self._check_operand(operand, node)
            self._check_arity(node)
            self.seen.add(node)
            self.names.add(node.name)
        for node in self.graph.nodes:
            self._check_users(node)

    def _check_node(self, node: fx.Node) -> None:
        if node.op not in _OPS:
            raise _fault(node, f"has the unknown kind {node.op!r}")
        if node.graph is not self.graph:
            raise _fault(node, "belongs to another graph; create nodes through ctx.rewriter")
        if node.name in self.names:
            raise _fault(node, "shares its name with another node")
        if node.op == "call_function" and not callable(node.target):
            raise _fault(node, f"calls {node.target!r}, which is not callable")
        if node.op != "call_function" and not isinstance(node.target, str):
            raise _fault(node, f"has the target {node.target!r}, which should be a name")
        if node.op in ("get_attr", "call_module"):
            self._check_attribute(node)

    def _check_attribute(self, node: fx.Node) -> None:
        target = str(node.target)
        if target not in self.resolved:
            self.resolved[target] = self.lookup.get(target)
        if self.resolved[target] is None:
            raise _fault(node, f"refers to {target!r}, which the model does not have")
        if node.op == "call_module" and not isinstance(self.resolved[target], nn.Module):
            kind = type(self.resolved[target]).__name__
            raise _fault(node, f"calls {target!r}, which is a {kind} and no module")

    def _check_operand(self, operand: fx.Node, node: fx.Node) -> None:
        if operand in self.seen and node in operand.users:
            return
        if is_erased(operand):
            raise _fault(node, f"reads %{operand.name}, which has been erased (a dangling node)")
        if operand.graph is not self.graph:
            raise _fault(node, f"reads %{operand.name}, which belongs to another graph")
        if operand.op == "output":
            raise _fault(node, "reads the output")
        if operand not in self.seen:
            raise _fault(
                node,
                f"reads %{operand.name} before it is computed: they form a cycle, or the order is "
                "wrong (create nodes before their readers: `with rw.at(reader):`)",
            )
        raise _fault(node, f"reads %{operand.name}, which does not list it as a user")

    def _check_users(self, node: fx.Node) -> None:
        for user in node.users:
            if user not in self.seen:
                raise _fault(node, f"lists the user %{user.name}, which is not in the graph")

    def _check_arity(self, node: fx.Node) -> None:
        if node.op not in ("call_function", "call_module"):
            return
        called: object = node.target
        if node.op == "call_module":
            module = self.resolved[str(node.target)]
            if isinstance(module, torch.jit.ScriptModule):
                return  # its class has no forward of its own
            called = type(module).forward  # type: ignore[attr-defined]
        key = (called, len(node.args), tuple(node.kwargs))
        if key in self.fitting:
            return
        complaint = _misfit(called, node, method=node.op == "call_module")
        if complaint:
            raise _fault(node, f"does not fit {target_name(called)}: {complaint}")
        self.fitting.add(key)


def _misfit(called: Any, node: fx.Node, *, method: bool) -> str:
    """Why ``called`` does not take the arguments of ``node``; "" when it does, or can't be told."""
    if isinstance(called, OVERLOAD):
        return _schema_misfit(called, node)
    if isinstance(called, OpDef) and bound_plainly(called, node.args, node.kwargs) is not None:
        return ""
    signature = called.signature if isinstance(called, OpDef) else _signature(called)
    if signature is None:
        return ""
    try:
        signature.bind(*((None,) if method else ()), *node.args, **node.kwargs)
    except TypeError as error:
        return str(error)
    return ""


def _signature(called: Callable[..., object]) -> inspect.Signature | None:
    """The signature of a Python function; builtins have none that can be trusted."""
    if not inspect.isfunction(called):
        return None
    return inspect.signature(called)


def _schema_misfit(called: object, node: fx.Node) -> str:
    arguments = schema_arguments(called)
    if arguments is None:
        return ""
    names = [a.name for a in arguments]
    positional = [a.name for a in arguments if not a.kwarg_only]
    if len(node.args) > len(positional):
        return f"takes {len(positional)} positional arguments, {len(node.args)} given"
    unknown = [k for k in node.kwargs if k not in names]
    if unknown:
        return f"has no argument {unknown[0]!r}"
    given = {*positional[: len(node.args)], *node.kwargs}
    missing = [a.name for a in arguments if a.name not in given and not a.has_default_value()]
    return f"missing argument {missing[0]!r}" if missing else ""


def _fault(node: fx.Node, what: str) -> VerifyError:
    return VerifyError(f"%{meta.where(node)} {what}", node=node.name)
