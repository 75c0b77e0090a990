"""What a call does besides yielding a value: it may write to memory, draw random numbers, or act.

Known to compute only, apart from what their names and schemas promise to write to (``add_``,
``out=``, ``inplace=True``, ``Tensor(a!)``): operations of the vocabulary, functions and methods of
torch, Python's arithmetic, modules of ``torch.nn`` without hooks. Any other call is someone's own,
and nothing tells what it does: it stays, in its place, and whatever it is given counts as
overwritten.

Capture adds what it saw while the example inputs ran (:mod:`qfx.capture.dispatched_effects`): that
a function made of others drew random numbers, or wrote where neither name nor schema says so.
"""

from __future__ import annotations

import operator
from functools import cache
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import fx

from qfx.graph import meta
from qfx.graph.known_calls import is_known
from qfx.graph.promised_writes import overloads_of, parameter_names, promised_by
from qfx.torch_private import OVERLOAD, PACKET
from qfx.vocab import GETITEM, Kind, OpDef


def has_effect(node: fx.Node) -> bool:
    """Whether ``node`` stays when nothing reads it: it acts, draws, or is no computation."""
    if node.op in ("placeholder", "output"):
        return True
    if node.op == "get_attr":
        return False
    if isinstance(node.target, OpDef):
        if node.target not in _acts:  # fx asks a dozen questions, and the answer is one for all
            _acts[node.target] = node.is_impure()
        return _acts[node.target]
    return is_random(node) or not _computes_only(node)


_acts: dict[OpDef, bool] = {}


def overwrites(node: fx.Node) -> tuple[fx.Node, ...]:
    """The operands whose memory ``node`` writes to, or may write to."""
    if not node.op.startswith("call_") or isinstance(node.target, OpDef):
        return ()
    if not is_known(node):
        return _all_given(node)
    promised = promised_by(node)
    if promised or not meta.wrote(node) or node.op == "call_module":  # to its own parameters
        return promised
    return _running_statistics(node) or _all_given(node)


def changing(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose memory something in the graph writes to, or may write to."""
    stack = [operand for node in graph.nodes for operand in overwrites(node)]
    found: set[fx.Node] = set()
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found.add(node)
        stack.extend(shares_memory(node))
    return found


def returned_through(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """What a graph returns, and what that may be a view of; with the readers that hand it on."""
    waiting = [node for node in graph.nodes if node.op == "output"]
    found: dict[fx.Node, list[fx.Node]] = {}
    for reader in waiting:
        operands = reader.all_input_nodes if reader.op == "output" else shares_memory(reader)
        for operand in dict.fromkeys(operands):
            if operand not in found:
                waiting.append(operand)
            found.setdefault(operand, []).append(reader)
    return found


def shares_memory(node: fx.Node) -> tuple[fx.Node, ...]:
    """The operands whose memory the result of ``node`` may lie in."""
    if not node.op.startswith("call_") or is_given_element(node):
        return ()
    if isinstance(node.target, OpDef):
        hands_on = node.target.kind in (Kind.SHAPE, Kind.STUB)
        return _first_operands(node) if hands_on else ()
    promised = promised_by(node) if is_known(node) else ()
    if promised:
        return promised
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    shares = meta.is_alias(node) or name in _MAY_ALIAS or not is_known(node)
    return tuple(node.all_input_nodes) if shares else ()


def _first_operands(node: fx.Node) -> tuple[fx.Node, ...]:
    """The first operand of an operation, or those that it lists there."""
    if node.args and isinstance(node.args[0], (tuple, list)):
        return tuple(each for each in node.args[0] if isinstance(each, fx.Node))
    return tuple(node.all_input_nodes[:1])


def is_given_element(node: fx.Node) -> bool:
    """Whether ``node`` is an element of an argument, which nothing reads as a whole.

    Of arguments, and of the elements of one, each has its own memory.
    """
    container = node.args[0] if node.target in _GETITEMS else None
    if not isinstance(container, fx.Node) or meta.tensor_info(container) is not None:
        return False
    is_given = container.op == "placeholder" or is_given_element(container)
    return is_given and all(_looks_at_elements(user) for user in container.users)


def _looks_at_elements(user: fx.Node) -> bool:
    return user.target in _OF_ELEMENTS or _is_query(user)


def is_random(node: fx.Node) -> bool:
    """Whether ``node`` draws random numbers: as seen at capture, else by torch's own tags."""
    if not node.op.startswith("call_") or isinstance(node.target, OpDef):
        return False
    seen = meta.drew(node)
    return _has_random_overload(node.target) if seen is None else seen


_GETITEMS = (operator.getitem, GETITEM)
_OF_ELEMENTS = (*_GETITEMS, operator.setitem, operator.delitem, len)
_MAY_ALIAS = frozenset(
    {
        *("reshape", "reshape_as", "view", "view_as", "flatten", "unflatten", "contiguous", "to"),
        *("float", "double", "half", "type", "type_as", "cpu", "cuda", "squeeze", "unsqueeze"),
        *("transpose", "permute", "t", "expand", "expand_as", "narrow", "select", "detach"),
        *("dropout", "identity", "numpy", "from_numpy", "as_tensor", "asarray", "from_dlpack"),
    }
)
"""What yields a view or a copy, whichever the layout of its operand lets it."""


def _computes_only(node: fx.Node) -> bool:
    return is_known(node) and not meta.wrote(node) and not promised_by(node)


def _running_statistics(node: fx.Node) -> tuple[fx.Node, ...]:
    """The operands of a function like ``F.batch_norm`` that it moves in training."""
    if not isinstance(node.target, FunctionType):
        return ()
    names = parameter_names(node.target)
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    held = (given.get(name) for name in ("running_mean", "running_var") if name in names)
    return tuple(operand for operand in held if isinstance(operand, fx.Node))


def _all_given(node: fx.Node) -> tuple[fx.Node, ...]:
    return tuple(operand for operand in node.all_input_nodes if not _is_query(operand))


def _is_query(node: fx.Node) -> bool:
    return isinstance(node.target, OpDef) and node.target.kind is Kind.QUERY


# -- who draws random numbers ----------------------------------------------------------------------
def _has_random_overload(target: object) -> bool:
    if isinstance(target, OVERLOAD):
        return is_random_operation(target)
    if isinstance(target, PACKET):
        return any(map(is_random_operation, overloads_of(target)))
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return _is_random_name(name)


@cache
def _is_random_name(name: str) -> bool:
    packet = getattr(torch.ops.aten, name, None) if name.isidentifier() else None
    return isinstance(packet, PACKET) and _has_random_overload(packet)


@cache
def random_functions() -> tuple[str, ...]:
    """The functions of ``torch`` that draw random numbers, those in place left out."""
    public = (name for name in dir(torch) if not name.startswith("_") and not name.endswith("_"))
    names = (name for name in public if isinstance(getattr(torch, name), BuiltinFunctionType))
    return tuple(filter(_is_random_name, names))


def is_random_operation(overload: Any) -> bool:
    """Whether torch says that an operation draws from a generator."""
    return torch.Tag.nondeterministic_seeded in overload.tags
