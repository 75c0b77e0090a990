"""Calls that write to an operand, and what computes the same without."""

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
from qfx.graph.promised_writes import REFORMING, flag_position, in_place_operand
from qfx.private_attributes import overload_name, schema_of
from qfx.torch_private import OVERLOAD

CallTarget: TypeAlias = "str | Callable[..., Any]"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_OPERATORS: dict[Callable[..., Any], Callable[..., Any]] = {
    getattr(operator, f"i{name.strip('_')}"): getattr(operator, name)
    for name in _words("add sub mul truediv floordiv mod pow and_ or_ xor lshift rshift matmul")
}


@dataclass(frozen=True)
class Spelling:
    """A call as written, or what stands for it.

    Attributes:
        kind: "call_module", "call_function" or "call_method".
        mutates: the operand that it works in place on, if any.
    """

    kind: str
    target: CallTarget
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    mutates: fx.Node | None = None


_NO_TWIN = _words("bernoulli_ resize_ set_ data_ requires_grad_ copy_ fill_ zero_")


def read_call(node: fx.Node) -> Spelling:
    """The call of ``node``, with what it mutates."""
    call = Spelling(node.op, node.target, node.args, dict(node.kwargs))
    base = in_place_operand(node)
    if base is None or meta.tensor_info(base) is None:
        return call
    return replace(call, mutates=base)


def as_functional(node: fx.Node) -> tuple[fx.Node, Spelling]:
    """What ``node`` works on in place, and the same call, not in place."""
    written = read_call(node)
    call = functional(written)
    assert call is not None
    assert written.mutates is not None
    return written.mutates, call


def functional(call: Spelling) -> Spelling | None:
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
        overload = getattr(packet, overload_name(call.target), None)
        return None if overload is None else replace(call, target=overload)
    holder = _holder(call)
    twin = getattr(holder, name.removesuffix("_"), None)
    if not callable(twin):
        return None
    target = name.removesuffix("_") if call.kind == "call_method" else twin
    return replace(call, target=target)


def changes_form(call: Spelling) -> bool:
    """Whether an operation in place leaves values as they are: it makes a view of its operand."""
    return name_of(call) in REFORMING


def _holder(call: Spelling) -> Any:
    if call.kind == "call_method":
        return torch.Tensor
    return F if getattr(F, name_of(call), None) is call.target else torch


def _without_flag(call: Spelling) -> Spelling | None:
    """``call`` without ``inplace=True``."""
    kwargs = {k: v for k, v in call.kwargs.items() if k != "inplace"}
    if len(kwargs) < len(call.kwargs):
        return replace(call, kwargs=kwargs)
    position = flag_position(call.target) if isinstance(call.target, FunctionType) else None
    if position is None:
        return None
    args = (*call.args[:position], False, *call.args[position + 1 :])
    return replace(call, args=args)


def name_of(call: Spelling) -> str:
    """The name of the function or method that ``call`` calls."""
    if isinstance(call.target, OVERLOAD):
        return str(schema_of(call.target).name.rpartition("::")[2])
    return call.target if isinstance(call.target, str) else getattr(call.target, "__name__", "")
