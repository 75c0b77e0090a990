"""Which in-place operations can be made functional, and what they are then.

``y = f_(x)`` becomes ``y = f(x)``, and whatever reads ``x`` later reads ``y``. That is the same
computation unless something else sees the memory of ``x`` change: another view of it that is read
later, or a parameter or buffer that keeps it. Those are left as they were written. The caller sees
an argument change, or what the model got as a view of it: what it holds in the end is copied there.

One forward sweep, in which the result of an operation that is made functional is a new value, in
memory of its own. Of each piece of memory the two latest readers are known, so that a decision
costs constant time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import fx

from qfx import vocab
from qfx.graph import meta
from qfx.graph.aliases import Aliases
from qfx.graph.effects import is_given_element
from qfx.graph.source import torch_class
from qfx.rewrite.pattern import Mismatch
from qfx_passes.canonical.functional_calls import (
    Spelling,
    changes_form,
    functional,
    name_of,
    read_call,
)


class _Memory(NamedTuple):
    """What is known of the nodes that share memory: who reads it latest, and who else sees it.

    Attributes:
        latest: positions of the last readers of the two that are read latest, and these.
        is_state: whether it outlives the call, in the model.
        is_given: whether the caller has it.
    """

    latest: tuple[tuple[int, fx.Node], ...]
    is_state: bool
    is_given: bool

    def merged(self, other: _Memory) -> _Memory:
        """What is known of both, if they may be one."""
        latest = sorted((*self.latest, *other.latest), key=lambda entry: entry[0])[-2:]
        return _Memory(
            tuple(latest), self.is_state or other.is_state, self.is_given or other.is_given
        )


class Mutations:
    """Decides for every in-place call of a captured graph; see the module.

    Attributes:
        made_functional: those that can be.
        seen_by_caller: of these, those that write to what the caller has.
        reforming: of these, those that give a tensor that the caller has another shape.
        refused: for every other in-place node, why not.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self._graph_module = graph_module
        self._position = {n: i for i, n in enumerate(graph_module.graph.nodes)}
        self._last_read = {
            n: max((self._position[u] for u in n.users), default=-1) for n in self._position
        }
        self._aliases: Aliases[_Memory] = Aliases(_Memory.merged)
        self._now: dict[fx.Node, fx.Node] = {}
        self._module_calls: dict[str, int] = {}
        self.made_functional: set[fx.Node] = set()
        self.seen_by_caller: set[fx.Node] = set()
        self.reforming: set[fx.Node] = set()
        self._given: set[fx.Node] = set()
        self.refused: dict[fx.Node, Mismatch] = {}
        for node in graph_module.graph.nodes:
            if node.op == "call_module":
                calls = self._module_calls.get(str(node.target), 0)
                self._module_calls[str(node.target)] = calls + 1
        for node in graph_module.graph.nodes:
            self._visit(node)

    def _visit(self, node: fx.Node) -> None:
        if node.op in ("placeholder", "get_attr", "output"):
            kinds = {"is_state": node.op == "get_attr", "is_given": node.op == "placeholder"}
            self._own(node, **kinds)
            self._note_given(node)
            return
        call = read_call(node)
        if call.mutates is not None:
            self._visit_mutation(node, call, call.mutates)
            return
        self._own(node, is_given=is_given_element(node))
        self._aliases.tie(node, self._current)
        self._note_given(node)

    def _note_given(self, node: fx.Node) -> None:
        """Remember what is an argument, or an element of one, and not only a view of it."""
        if node.op == "placeholder" or is_given_element(node):
            self._given.add(node)

    def _visit_mutation(self, node: fx.Node, call: Spelling, written: fx.Node) -> None:
        base = self._current(written)
        if base in self._given:
            self._given.add(node)
        twin = functional(call)
        reason = self._obstacle(node, call, base, twin)
        if twin is None or reason is not None:
            if reason is None:
                reason = Mismatch("{0} has no functional twin", name_of(call))
            self.refused[node] = reason
            self._own(node)
            self._aliases.join(node, base)
            return
        self.made_functional.add(node)
        self._last_read[node] = max(self._last_read[node], self._last_read[base])
        self._now[base] = node
        if changes_form(call):
            self._own(node)
            self._aliases.join(node, base)
            self.reforming |= {node} & self._given
            return
        is_given = self._aliases.fact(base).is_given
        if is_given:
            self.seen_by_caller.add(node)
            self._last_read[node] = len(self._position)  # by what copies it there
        self._own(node, is_given=is_given)

    def _obstacle(
        self, node: fx.Node, call: Spelling, base: fx.Node, twin: Spelling | None
    ) -> Mismatch | None:
        if changes_form(call):
            return None
        memory = self._aliases.fact(base)
        if memory.is_state:
            return Mismatch("{0} is a parameter or buffer, changed in place", base)
        for position, other in memory.latest:
            if other is not base and position > self._position[node]:
                return Mismatch("{0} shares its memory and is read later", other)
        latest_read = max(self._last_read[base], self._last_read[node])
        if memory.is_given and latest_read <= self._position[node]:
            return Mismatch("only the caller reads what it leaves in {0}", base)
        if call.kind == "call_module" and self._module_calls[str(call.target)] > 1:
            return None if self._is_known(call) else Mismatch("an in-place module called twice")
        if twin is not None and twin.target is not vocab.SETITEM and not _keeps_dtype(node, base):
            return Mismatch("the operands of {0} have other dtypes", name_of(call))
        return None

    def _is_known(self, call: Spelling) -> bool:
        """Whether the module becomes an operation of the vocabulary, which is never in place."""
        kind = torch_class(self._graph_module.get_submodule(str(call.target)))
        return any(kind in op.modules for op in vocab.ops())

    def _current(self, node: fx.Node) -> fx.Node:
        path = []
        while node in self._now:
            path.append(node)
            node = self._now[node]
        for passed in path:
            self._now[passed] = node
        return node

    def _own(self, node: fx.Node, *, is_state: bool = False, is_given: bool = False) -> None:
        latest = ((self._last_read[node], node),)
        self._aliases.add(node, _Memory(latest, is_state, is_given))


def _keeps_dtype(node: fx.Node, base: fx.Node) -> bool:
    """Whether the functional result has the dtype of ``base``, as the one in place does."""
    own = meta.tensor_info(base)
    if own is None:
        return True
    infos = [meta.tensor_info(n) for n in node.all_input_nodes]
    return all(i is None or torch.promote_types(own.dtype, i.dtype) == own.dtype for i in infos)
