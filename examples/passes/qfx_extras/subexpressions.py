"""share-subexpressions: what is computed twice from the same is computed once.

    y = f(x); z = f(x)   is   y = f(x); z = y
    y = f(@w)            is   y = @folded, computed here, once

Two calls are alike if they call the same with the same operands and attributes, where operands that
were found alike count as the same, and those of a commutative operation in either order. One walk
in graph order finds all of them, since operands come first.

Left alone: what draws random numbers or acts, modules (they may keep state), what somebody writes
to in place and what is computed of that, and two values that the model both returns, since its
caller may write to one of them.
Folding is for inference: a constant that was made of a parameter does not train.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx

import qfx
from qfx import vocab

_PLAIN = (
    *(bool, int, float, complex, str, type(None)),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
"""Literals that are equal where their texts are."""


class ShareSubexpressions(qfx.Pass):
    """Compute once what is computed twice, and now what depends on parameters alone.

    Attributes:
        fold: whether to compute what depends on parameters and constants alone.
        largest: elements that a constant made so may have.
    """

    name = "share-subexpressions"
    requires = qfx.Level.CANONICAL
    fold: bool = True
    largest: int = 1 << 20

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        """Replace what is alike, in graph order."""
        rw = ctx.rewriter
        written = _through(o for node in graph.nodes for o in qfx.overwrites(node))
        output = next(iter(reversed(graph.nodes)))
        returned = _through(output.all_input_nodes)
        known: dict[object, fx.Node] = {}
        for node in list(graph.nodes):
            if node._erased or not _computes(node) or _is_told_by_time(node, written):
                continue
            key = _key(node, rw)
            first = known.get(key)
            if first is not None and not first._erased:
                if not (first in returned and node in returned):
                    rw.replace(node, first)
                continue
            folded = None if node in returned else self._folded(node, rw, written)
            if folded is not None:
                rw.replace(node, folded)
            if key is not None:
                known[key] = folded or node

    def _folded(self, node: fx.Node, rw: qfx.Rewriter, written: set[fx.Node]) -> fx.Node | None:
        """A constant that holds what ``node`` computes, if that is one and small enough."""
        info, op, operands = qfx.tensor_info(node), node.target, node.all_input_nodes
        if not self.fold or info is None or info.numel > self.largest or not operands:
            return None
        if not isinstance(op, vocab.OpDef):
            return None
        if any(each.op != "get_attr" or each in written for each in operands):
            return None
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda each: rw.tensor(each))
        with torch.no_grad():
            value = op(*args, **kwargs)
        with rw.at(node):
            return rw.constant(node.name, value.clone())


def _computes(node: fx.Node) -> bool:
    """Whether all that ``node`` does is to yield a value that its operands decide."""
    return node.op in ("call_function", "call_method", "get_attr") and not qfx.has_effect(node)


def _is_told_by_time(node: fx.Node, written: set[fx.Node]) -> bool:
    """Whether ``node`` reads, or is, what somebody writes to in place: before that, or after."""
    return bool(written) and not written.isdisjoint(_through((node, *node.all_input_nodes)))


def _through(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """``nodes``, and all whose memory they may lie in."""
    waiting = list(nodes)
    found: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(qfx.shares_memory(node))
    return found


def _key(node: fx.Node, rw: qfx.Rewriter) -> object:
    """What is equal of nodes that compute the same; None where that can't be told."""
    if node.op == "get_attr":
        return None if qfx.tensor_info(node) is None else ("get_attr", id(rw.tensor(node)))
    try:
        args, kwargs = _frozen(node.args), _frozen(dict(node.kwargs))
    except TypeError:
        return None
    swaps = isinstance(node.target, vocab.OpDef) and node.target.commutative
    if swaps and "alpha" not in node.kwargs:
        args = tuple(sorted(args, key=repr))  # the operands are all it is given by position
    return node.op, node.target, args, kwargs


def _frozen(value: object) -> tuple[object, ...]:
    """``value`` as what can be compared and hashed: 1, 1.0 and True differ, and so do 0.0 and -0.0.

    Raises:
        TypeError: it holds something of which equality says nothing, such as a tensor.
    """
    if isinstance(value, fx.Node):
        return "node", value
    if isinstance(value, (tuple, list)):
        return ("sequence", *map(_frozen, value))
    if isinstance(value, dict):
        return ("dict", *((name, _frozen(value[name])) for name in sorted(value)))
    if isinstance(value, slice):
        return ("slice", *map(_frozen, (value.start, value.stop, value.step)))
    if not isinstance(value, _PLAIN):
        raise TypeError(type(value).__name__)
    return type(value).__name__, repr(value)
