"""Which in-place operations can be made functional, and what they are then.

``y = f_(x)`` becomes ``y = f(x)``, and whatever reads ``x`` later reads ``y``. That is the same
computation unless something else sees the memory of ``x`` change: another view of it that is read
later, or a parameter or buffer that keeps it. Those are left as they were written. The caller sees
an argument change, or what the model got as a view of it: what it holds in the end is copied there.

One forward sweep over sets of nodes that share memory; each set knows its two latest
readers, so that a decision costs constant time.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import fx

from qfx import vocab
from qfx.graph import meta
from qfx.graph.disjoint import DisjointSets
from qfx.graph.effects import (
    flag_position,
    in_place_operand,
    is_given_element,
    is_known,
    shares_memory,
)
from qfx.graph.source import torch_class
from qfx.rewrite.pattern import Mismatch
from qfx.torch_private import OVERLOAD

Target: TypeAlias = "str | Callable[..., Any]"


@dataclass(frozen=True)
class Call:
    """A call as written, or what stands for it.

    Attributes:
        kind: "call_module", "call_function" or "call_method".
        mutates: the operand that it works in place on, if any.
    """

    kind: str
    target: Target
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    mutates: fx.Node | None = None


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_OPERATORS: dict[Callable[..., Any], Callable[..., Any]] = {
    getattr(operator, f"i{name.strip('_')}"): getattr(operator, name)
    for name in _words("add sub mul truediv floordiv mod pow and_ or_ xor lshift rshift matmul")
}
_METADATA = _words("squeeze_ unsqueeze_ transpose_ t_ swapaxes_ swapdims_ detach_")
_NO_TWIN = _words("bernoulli_ resize_ set_ data_ requires_grad_ copy_ fill_ zero_")


def read_call(node: fx.Node) -> Call:
    """The call of ``node``, with what it mutates."""
    call = Call(node.op, node.target, node.args, dict(node.kwargs))
    base = in_place_operand(node)
    if base is None or meta.tensor_info(base) is None:
        return call
    return replace(call, mutates=base)


def as_functional(node: fx.Node) -> tuple[fx.Node, Call]:
    """What ``node`` works on in place, and the same call, not in place."""
    written = read_call(node)
    call = functional(written)
    assert call is not None
    assert written.mutates is not None
    return written.mutates, call


def functional(call: Call) -> Call | None:
    """The same call, not in place; None if there is no such thing."""
    name = name_of(call)
    if call.target is operator.setitem:
        return replace(call, target=vocab.SETITEM)
    if call.kind == "call_module":
        return call  # the flag of the module is cleared
    if not isinstance(call.target, str) and call.target in _OPERATORS:
        return replace(call, target=_OPERATORS[call.target])
    if "out" in call.kwargs or name in _NO_TWIN:
        return None
    if not name.endswith("_"):
        return _without_flag(call)
    if isinstance(call.target, OVERLOAD):
        packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
        overload = getattr(packet, call.target._overloadname, None)
        return None if overload is None else replace(call, target=overload)
    holder = _holder(call)
    twin = getattr(holder, name.removesuffix("_"), None)
    if not callable(twin):
        return None
    target = name.removesuffix("_") if call.kind == "call_method" else twin
    return replace(call, target=target)


def changes_form(call: Call) -> bool:
    """Whether an operation in place leaves values as they are: it makes a view of its operand."""
    return name_of(call) in _METADATA


def _holder(call: Call) -> Any:
    if call.kind == "call_method":
        return torch.Tensor
    return F if getattr(F, name_of(call), None) is call.target else torch


def _without_flag(call: Call) -> Call | None:
    """``call`` without ``inplace=True``."""
    kwargs = {k: v for k, v in call.kwargs.items() if k != "inplace"}
    if len(kwargs) < len(call.kwargs):
        return replace(call, kwargs=kwargs)
    position = flag_position(call.target) if isinstance(call.target, FunctionType) else None
    if position is None:
        return None
    args = (*call.args[:position], False, *call.args[position + 1 :])
    return replace(call, args=args)


def name_of(call: Call) -> str:
    """The name of the function or method that ``call`` calls."""
    if isinstance(call.target, OVERLOAD):
        return str(call.target._schema.name.rpartition("::")[2])
    return call.target if isinstance(call.target, str) else getattr(call.target, "__name__", "")


# -- who shares memory -----------------------------------------------------------------------------
@dataclass
class _Memory:
    """Nodes that share memory: the two that are read latest, and who else sees it.

    Attributes:
        latest: positions of the last readers of two of them, and these.
        is_state: whether it outlives the call, in the model.
        is_given: whether the caller has it.
    """

    latest: list[tuple[int, fx.Node]]
    is_state: bool = False
    is_given: bool = False


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
        self._sets: DisjointSets[fx.Node] = DisjointSets()
        self._memory: dict[fx.Node, _Memory] = {}
        self._now: dict[fx.Node, fx.Node] = {}
        self._elements: dict[tuple[Any, int], fx.Node] = {}
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
        if self._is_element(node):
            self._join(node, self._elements.setdefault(_element(node), node))
            return
        for operand in shares_memory(node):
            self._join(node, self._current(operand))
        self._note_given(node)

    def _note_given(self, node: fx.Node) -> None:
        """Remember what is an argument, or an element of one, and not only a view of it."""
        if node.op == "placeholder" or is_given_element(node):
            self._given.add(node)

    def _memory_of(self, node: fx.Node) -> _Memory:
        return self._memory[self._sets.root(node)]

    def _is_element(self, node: fx.Node) -> bool:
        """Whether ``node`` is one of several tensors that a call made, each with its own memory."""
        if node.target is not operator.getitem or not isinstance(node.args[1], int):
            return False
        made = node.args[0]
        assert isinstance(made, fx.Node)
        if made.op == "placeholder" or not is_known(made):
            return False
        if meta.is_alias(made) or meta.tensor_info(made) is not None:
            return False
        return _length(made) > 0 and all(u.target is operator.getitem for u in made.users)

    def _visit_mutation(self, node: fx.Node, call: Call, written: fx.Node) -> None:
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
            self._join(node, base)
            return
        self.made_functional.add(node)
        self._last_read[node] = max(self._last_read[node], self._last_read[base])
        self._now[base] = node
        if changes_form(call):
            self._own(node)
            self._join(node, base)
            self.reforming |= {node} & self._given
            return
        is_given = self._memory_of(base).is_given
        if is_given:
            self.seen_by_caller.add(node)
            self._last_read[node] = len(self._position)  # by what copies it there
        self._own(node, is_given=is_given)

    def _obstacle(
        self, node: fx.Node, call: Call, base: fx.Node, twin: Call | None
    ) -> Mismatch | None:
        if changes_form(call):
            return None
        memory = self._memory_of(base)
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

    def _is_known(self, call: Call) -> bool:
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
        self._sets.add(node)
        self._memory[node] = _Memory([(self._last_read[node], node)], is_state, is_given)

    def _join(self, node: fx.Node, other: fx.Node) -> None:
        joined = self._sets.join(node, other)
        if joined is None:
            return
        ours = self._memory.pop(joined)
        memory = self._memory_of(other)
        latest = sorted((*memory.latest, *ours.latest), key=lambda entry: entry[0])
        memory.latest = latest[-2:]
        memory.is_state = memory.is_state or ours.is_state
        memory.is_given = memory.is_given or ours.is_given


def _element(node: fx.Node) -> tuple[Any, int]:
    """What ``node`` reads an element of, and which, counted from the start."""
    made, index = node.args
    assert isinstance(index, int)
    return made, index % _length(made)


def _length(made: Any) -> int:
    value = meta.value_of(made)
    return len(value) if isinstance(value, (tuple, list)) else 0


def _keeps_dtype(node: fx.Node, base: fx.Node) -> bool:
    """Whether the functional result has the dtype of ``base``, as the one in place does."""
    own = meta.tensor_info(base)
    if own is None:
        return True
    infos = [meta.tensor_info(n) for n in node.all_input_nodes]
    return all(i is None or torch.promote_types(own.dtype, i.dtype) == own.dtype for i in infos)
