"""What a known call promises to write to, by its name, its arguments or its schema."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from types import FunctionType
from typing import Any

from torch import fx, nn

from qfx.graph.known_calls import is_known, module_of
from qfx.private_attributes import schema_of
from qfx.torch_private import DROPOUTS, OVERLOAD, PACKET
from qfx.vocab import OpDef


def in_place_operand(node: fx.Node) -> fx.Node | None:
    """The one operand that a call of torch or Python promises to work in place on, if any."""
    if isinstance(node.target, (OpDef, PACKET)) or not is_known(node):
        return None
    if isinstance(node.target, OVERLOAD) and not _is_aten_in_place(node.target):
        return None
    promised = promised_by(node)
    if any(isinstance(each, (tuple, list)) for each in (*node.args[:1], node.kwargs.get("out"))):
        return None  # on all tensors of a list, as torch._foreach_mul_ does
    return next(iter(promised), None)


# -- who promises what -----------------------------------------------------------------------------
_OPERATORS_IN_PLACE: frozenset[Callable[..., Any]] = frozenset(
    {
        *(operator.setitem, operator.delitem, operator.iadd, operator.isub, operator.imul),
        *(operator.itruediv, operator.ifloordiv, operator.imod, operator.ipow, operator.iand),
        *(operator.ior, operator.ixor, operator.ilshift, operator.irshift, operator.imatmul),
        operator.iconcat,
    }
)

_WRITING_METHODS = frozenset(
    ("__setitem__", "__delitem__", *(f"__{f.__name__}__" for f in _OPERATORS_IN_PLACE))
)

REFORMING = frozenset(
    ("squeeze_", "unsqueeze_", "transpose_", "t_", "swapaxes_", "swapdims_", "detach_")
)
"""Methods in place that leave values as they are, and give their tensor another form."""


def promised_by(node: fx.Node) -> tuple[fx.Node, ...]:
    """The operands that a known call says it writes to."""
    if isinstance(node.target, OVERLOAD):
        return tuple(_written_by_schema(node, (node.target,)))
    if isinstance(node.target, PACKET):
        return tuple(dict.fromkeys(_written_by_schema(node, overloads_of(node.target))))
    out = node.kwargs.get("out")
    if out is not None:
        return tuple(_nodes_in(out))
    first = node.args[0] if node.args else node.kwargs.get("input")
    return tuple(_nodes_in(first)) if first is not None and _works_in_place(node) else ()


def _written_by_schema(node: fx.Node, overloads: Iterable[Any]) -> Iterator[fx.Node]:
    for overload in overloads:
        for position, argument in enumerate(schema_of(overload).arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            if argument.name in node.kwargs:
                yield from _nodes_in(node.kwargs[argument.name])
            elif position < len(node.args) and not argument.kwarg_only:
                yield from _nodes_in(node.args[position])


def _works_in_place(node: fx.Node) -> bool:
    if node.op == "call_module":
        module = module_of(node)
        return bool(getattr(module, "inplace", False)) and not _is_idle(module)
    target: Any = node.target
    name = target if node.op == "call_method" else getattr(target, "__name__", "")
    if target in _OPERATORS_IN_PLACE or name in _WRITING_METHODS:
        return True
    if getattr(target, "__module__", "") == operator.add.__module__:
        return False  # and_, or_, not_
    if name.endswith("_") and not name.endswith("__"):
        return True
    return _flag(node) is True and node.kwargs.get("training") is not False


def _flag(node: fx.Node) -> object:
    """The value of ``inplace`` in a call of a function."""
    if "inplace" in node.kwargs or not isinstance(node.target, FunctionType):
        return node.kwargs.get("inplace")
    position = flag_position(node.target)
    return node.args[position] if position is not None and position < len(node.args) else None


def flag_position(function: FunctionType) -> int | None:
    """Where the parameter ``inplace`` of a Python function stands, if it has one."""
    names = parameter_names(function)
    return names.index("inplace") if "inplace" in names else None


@cache
def parameter_names(function: FunctionType) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _is_idle(module: nn.Module | None) -> bool:
    return isinstance(module, DROPOUTS) and not module.training


def overloads_of(packet: Any) -> list[Any]:
    return [getattr(packet, name) for name in packet.overloads()]


def _is_aten_in_place(overload: Any) -> bool:
    """Whether an operation works on its first operand, and hands that out."""
    return bool(overload.namespace == "aten" and schema_of(overload).name.endswith("_"))


def _nodes_in(argument: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(argument, lambda node: found.append(node) or node)  # type: ignore[func-returns-value]
    return found
