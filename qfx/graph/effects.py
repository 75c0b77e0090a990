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

import inspect
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, WrapperDescriptorType
from typing import Any

import torch
from torch import fx, nn

from qfx.graph import meta
from qfx.graph.containers import Container
from qfx.graph.leaves import has_hooks
from qfx.graph.scripted import Scripted
from qfx.graph.source import torch_class
from qfx.torch_private import DROPOUTS, OVERLOAD, PACKET
from qfx.vocab import GETITEM, Kind, OpDef


def has_effect(node: fx.Node) -> bool:
    """Whether ``node`` stays when nothing reads it: it acts, draws, or is no computation."""
    if node.op in ("placeholder", "output"):
        return True
    if node.op == "get_attr":
        return False
    if isinstance(node.target, OpDef):
        return node.is_impure()
    return is_random(node) or not _computes_only(node)


def overwrites(node: fx.Node) -> tuple[fx.Node, ...]:
    """The operands whose memory ``node`` writes to, or may write to."""
    if not node.op.startswith("call_") or isinstance(node.target, OpDef):
        return ()
    promised = _promised(node) if is_known(node) else ()
    if promised or (is_known(node) and not meta.wrote(node)):
        return promised
    statistics = _running_statistics(node) if is_known(node) else ()
    return statistics or tuple(o for o in node.all_input_nodes if not _is_query(o))


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


def shares_memory(node: fx.Node) -> tuple[fx.Node, ...]:
    """The operands whose memory the result of ``node`` may lie in."""
    if not node.op.startswith("call_") or is_given_element(node):
        return ()
    if isinstance(node.target, OpDef):
        hands_on = node.target.kind in (Kind.SHAPE, Kind.STUB)
        return tuple(node.all_input_nodes[:1]) if hands_on else ()
    promised = _promised(node) if is_known(node) else ()
    if promised:
        return promised
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    shares = meta.is_alias(node) or name in _MAY_ALIAS or not is_known(node)
    return tuple(node.all_input_nodes) if shares else ()


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


def is_known(node: fx.Node) -> bool:
    """Whether a call is one of those that do nothing but what their name says."""
    if node.op == "call_method":
        return _is_known_method(str(node.target), node)
    if node.op != "call_module":
        return _is_known_function(node.target)
    module = module_of(node)
    if module is None or has_hooks(module):
        return False
    return torch_class(module) is not None or _is_own(type(module).__module__)


def module_of(node: fx.Node) -> nn.Module | None:
    """The module that a ``call_module`` node calls; None if its graph belongs to none."""
    owner = node.graph.owning_module
    return None if owner is None else owner.get_submodule(str(node.target))


def in_place_operand(node: fx.Node) -> fx.Node | None:
    """The one operand that a call of torch or Python promises to work in place on, if any."""
    if isinstance(node.target, (OpDef, PACKET)) or not is_known(node):
        return None
    if isinstance(node.target, OVERLOAD) and not _is_aten_in_place(node.target):
        return None
    promised = _promised(node)
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
_GETITEMS = (operator.getitem, GETITEM)
_OF_ELEMENTS = (*_GETITEMS, operator.setitem, operator.delitem, len)
_BUILTINS: frozenset[Callable[..., Any]] = frozenset(
    {
        *(getattr, len, abs, min, max, sum, sorted, round, divmod, pow, isinstance, repr, hash),
        *(any, all),
    }
)
_PYTHON_OF_TORCH = frozenset(
    {"torch.nn.functional", "torch.functional", "torch._tensor", "torch.nn.init"}
)
_MAY_ALIAS = frozenset(
    {
        *("reshape", "reshape_as", "view", "view_as", "flatten", "unflatten", "contiguous", "to"),
        *("float", "double", "half", "type", "type_as", "cpu", "cuda", "squeeze", "unsqueeze"),
        *("transpose", "permute", "t", "expand", "expand_as", "narrow", "select", "detach"),
        *("dropout", "identity", "numpy", "from_numpy", "as_tensor", "asarray", "from_dlpack"),
    }
)
"""What yields a view or a copy, whichever the layout of its operand lets it."""
_WRITING_METHODS = frozenset(
    ("__setitem__", "__delitem__", *(f"__{f.__name__}__" for f in _OPERATORS_IN_PLACE))
)
_ACTING_METHODS = frozenset(
    {"backward", "retain_grad", "register_hook", "register_post_accumulate_grad_hook"}
)
_READING_METHODS = frozenset({"get", "keys", "values", "items", "index", "count", "copy"})
"""What containers can be asked for without changing."""
_IMMUTABLE = (int, float, str, torch.Size, torch.dtype, torch.device)


def _is_known_function(target: Any) -> bool:
    if isinstance(target, Scripted):
        return False
    if isinstance(target, (type, Container, OVERLOAD, PACKET)):
        return True
    if isinstance(target, (MethodDescriptorType, WrapperDescriptorType)):
        return _is_tensor_method(target.__name__)
    module = str(getattr(target, "__module__", None) or type(target).__module__)
    if isinstance(target, FunctionType):
        return module in _PYTHON_OF_TORCH or _is_own(module) or _asks_sizes(module, target)
    if not isinstance(target, BuiltinFunctionType):
        return _is_own(type(target).__module__)
    if module.partition(".")[0] == "torch":
        return hasattr(torch.ops.aten, target.__name__)
    return module in (operator.add.__module__, math.__name__) or target in _BUILTINS


def _is_own(module: str) -> bool:
    return module.partition(".")[0] in ("qfx", "qfx_passes")


def _asks_sizes(module: str, function: FunctionType) -> bool:
    """Whether ``function`` is one of torch's own about sizes and types, like ``torch.sym_max``."""
    return module == "torch" and function.__name__.startswith(("sym_", "is_"))


def _is_known_method(name: str, node: fx.Node) -> bool:
    receiver = node.args[0] if node.args else None
    value = meta.value_of(receiver) if isinstance(receiver, fx.Node) else None
    if isinstance(value, meta.TensorInfo):
        return _is_tensor_method(name)
    if value is not None:
        return name in _READING_METHODS
    return any(hasattr(kind, name) for kind in _IMMUTABLE)


def _is_tensor_method(name: str) -> bool:
    return hasattr(torch.Tensor, name) and name not in _ACTING_METHODS


def _computes_only(node: fx.Node) -> bool:
    return is_known(node) and not meta.wrote(node) and not _promised(node)


def _promised(node: fx.Node) -> tuple[fx.Node, ...]:
    """The operands that a known call says it writes to."""
    if isinstance(node.target, OVERLOAD):
        return tuple(_written_by_schema(node, (node.target,)))
    if isinstance(node.target, PACKET):
        return tuple(dict.fromkeys(_written_by_schema(node, _overloads(node.target))))
    out = node.kwargs.get("out")
    if out is not None:
        return tuple(_nodes_in(out))
    first = node.args[0] if node.args else node.kwargs.get("input")
    return tuple(_nodes_in(first)) if first is not None and _works_in_place(node) else ()


def _written_by_schema(node: fx.Node, overloads: Iterable[Any]) -> Iterator[fx.Node]:
    for overload in overloads:
        for position, argument in enumerate(overload._schema.arguments):
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
    names = _parameter_names(function)
    return names.index("inplace") if "inplace" in names else None


def _running_statistics(node: fx.Node) -> tuple[fx.Node, ...]:
    """The operands of a function like ``F.batch_norm`` that it moves in training."""
    if not isinstance(node.target, FunctionType):
        return ()
    names = _parameter_names(node.target)
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    held = (given.get(name) for name in ("running_mean", "running_var") if name in names)
    return tuple(operand for operand in held if isinstance(operand, fx.Node))


@cache
def _parameter_names(function: FunctionType) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _is_idle(module: nn.Module | None) -> bool:
    return isinstance(module, DROPOUTS) and not module.training


def _overloads(packet: Any) -> list[Any]:
    return [getattr(packet, name) for name in packet.overloads()]


def _is_aten_in_place(overload: Any) -> bool:
    """Whether an operation works on its first operand, and hands that out."""
    return bool(overload.namespace == "aten" and overload._schema.name.endswith("_"))


def _is_query(node: fx.Node) -> bool:
    return isinstance(node.target, OpDef) and node.target.kind is Kind.QUERY


def _nodes_in(argument: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(argument, lambda node: found.append(node) or node)  # type: ignore[func-returns-value]
    return found


# -- who draws random numbers ----------------------------------------------------------------------
def _has_random_overload(target: Any) -> bool:
    if isinstance(target, OVERLOAD):
        return is_random_operation(target)
    if isinstance(target, PACKET):
        return any(map(is_random_operation, _overloads(target)))
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
