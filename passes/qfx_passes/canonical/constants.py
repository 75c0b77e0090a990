"""Which values of a graph are constant, and what they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from qfx import vocab
from qfx.capture.dispatched_effects import Witness
from qfx.graph import meta
from qfx.graph.effects import changing, has_effect
from qfx.graph.interpret import result_of
from qfx.graph.overlap import memory_of
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import Kind, OpDef

_KEPT_KINDS = (Kind.QUANT, Kind.STUB)


class ConstantNodes:
    """Which nodes are constant, and their values as far as they are needed.

    Attributes:
        sources: for every constant node, how many elements it is made from.
    """

    def __init__(self, graph: fx.Graph, rewriter: Rewriter) -> None:
        self._rewriter = rewriter
        self._changing = changing(graph)
        changed = (n for n in self._changing if n.op == "get_attr")
        self._changed_memory = {self._memory(node) for node in changed} - {0}
        self.sources: dict[fx.Node, int] = {}
        self._values: dict[fx.Node, Any] = {}
        self._drawn: set[fx.Node] = set()
        for node in graph.nodes:
            if self._is_constant(node):
                own = meta.tensor_info(node) if node.op == "get_attr" else None
                below = sum(self.sources[n] for n in node.all_input_nodes)
                self.sources[node] = below + (0 if own is None else own.numel)

    def is_last(self, node: fx.Node) -> bool:
        """Whether ``node`` is constant and something that is not reads it."""
        return node in self.sources and any(user not in self.sources for user in node.users)

    def _is_constant(self, node: fx.Node) -> bool:
        if node in self._changing or has_effect(node) or node.op == "call_module":
            return False
        if node.op == "get_attr":
            return meta.tensor_info(node) is not None and not self._is_changed(node)
        if isinstance(node.target, OpDef) and node.target.kind in _KEPT_KINDS:
            return False
        return all(operand in self.sources for operand in node.all_input_nodes)

    def _is_changed(self, attribute: fx.Node) -> bool:
        """Whether something writes to the memory of ``attribute``, by whatever name."""
        return bool(self._changed_memory) and self._memory(attribute) in self._changed_memory

    def _memory(self, attribute: fx.Node) -> int:
        if meta.tensor_info(attribute) is None:
            return 0
        return memory_of(self._rewriter.tensor(attribute))

    def materialize(self, node: fx.Node, returning: Sequence[fx.Node]) -> None:
        """Put a buffer in place of ``node``; for readers that hand it on to callers, a copy."""
        with torch.random.fork_rng(devices=[]):
            value = self._value(node)
        if not isinstance(value, Tensor) or node in self._drawn:
            return
        with self._rewriter.at(node):
            new = self._rewriter.constant(_name_for(node), value.clone(), origins=(node,))
        self._rewriter.replace(node, new)
        self.sources[new] = value.numel()
        self._values[new] = value
        readers = [reader for reader in returning if reader in new.users]
        if readers:
            self._hand_out(new, readers, node)

    def _hand_out(self, constant: fx.Node, readers: Sequence[fx.Node], origin: fx.Node) -> None:
        """Give ``readers`` a copy of ``constant``: who calls the graph may write to it."""
        with self._rewriter.at(min(readers)):
            made = self._rewriter.call(vocab.CLONE, constant, origins=(origin,))
        for reader in readers:
            self._rewriter.rewire(reader, constant, made)

    def _value(self, node: fx.Node) -> Any:
        """The value of a constant node; its operands first, without recursion."""
        stack = [node]
        while stack:
            each = stack[-1]
            missing = [n for n in each.all_input_nodes if n not in self._values]
            if each in self._values or not missing:
                stack.pop()
            else:
                stack.extend(missing)
                continue
            if each not in self._values:
                self._values[each] = self._compute(each)
        return self._values[node]

    def _compute(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            return self._rewriter.tensor(node).detach()
        args, kwargs = map_arg((node.args, dict(node.kwargs)), self._values.__getitem__)
        witness = Witness()
        with torch.no_grad(), witness, witness.watching(()) as seen:
            value = result_of(node, args, kwargs)
        if seen().drew or not self._drawn.isdisjoint(node.all_input_nodes):
            self._drawn.add(node)  # a function made of others, which a pass put here
        return value


def _name_for(node: fx.Node) -> str:
    """A name after the module and the operand that the constant is: "stem.conv.weight"."""
    names = (_operand_name(user, node) for user in node.users)
    name = next((n for n in names if n), node.name)
    path = meta.module_path(node)
    return f"{path}.{name}" if path else name


def _operand_name(user: fx.Node, node: fx.Node) -> str:
    if not isinstance(user.target, OpDef) or user.target.kind not in (Kind.MATMUL, Kind.NORM):
        return ""
    operands = dict(zip(user.target.signature.parameters, user.args, strict=False))
    return next((n for n, value in operands.items() if value is node), "")
