"""The arguments of a call by parameter, however they were given: by position, keyword or default.

Operations of the vocabulary and Python functions are read through their signature, functions and
methods of PyTorch through the schema of the overload that fits. A call of something else has what
was written, and no names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import fx, nn
from torch.fx.operator_schemas import get_signature_for_torch_op, normalize_function

from qfx import vocab
from qfx.graph import meta
from qfx.vocab import OpDef

_ALL = inspect.Parameter.VAR_POSITIONAL
_REST = inspect.Parameter.VAR_KEYWORD


@dataclass(frozen=True)
class CallArguments:
    """What a call is given.

    Attributes:
        operands: what may be given by position, in order.
        names: the parameters of ``operands``; shorter where some have none.
        named: every argument by the name of its parameter.
    """

    operands: tuple[Any, ...]
    names: tuple[str, ...]
    named: Mapping[str, Any]


def arguments_of(node: fx.Node, module: nn.Module | None = None) -> CallArguments:
    """The arguments of a call; ``module`` is what a ``call_module`` node calls."""
    args, kwargs = node.args, dict(node.kwargs)
    if isinstance(node.target, OpDef):
        return _of_operation(node.target, node)
    signatures = tuple(_signatures(node, module))
    for signature in signatures:
        found = _bound(signature, args, kwargs, certain=len(signatures) == 1)
        if found is not None:
            return found
    return _variadic(node) or CallArguments(args, (), kwargs)


def _of_operation(op: OpDef, node: fx.Node) -> CallArguments:
    try:
        named = vocab.bound(node)
    except TypeError:  # verification says what is wrong with it
        return CallArguments(node.args, (), dict(node.kwargs))
    names = operand_names(op)
    return CallArguments(tuple(named[name] for name in names), names, named)


@cache
def operand_names(op: OpDef) -> tuple[str, ...]:
    """The parameters of an operation that may be given by position."""
    return _positional(op.signature)


def _positional(signature: inspect.Signature) -> tuple[str, ...]:
    """The parameters that may be given by position, but for ``*args``."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in signature.parameters.values() if p.kind in kinds)


def _bound(
    signature: inspect.Signature,
    args: tuple[object, ...],
    kwargs: dict[str, Any],
    *,
    certain: bool = False,
) -> CallArguments | None:
    """``args`` and ``kwargs`` by parameter; None if they do not fit.

    Of several signatures, that is also if a value is of another type than one wants.
    """
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return None
    bound.apply_defaults()
    named: dict[str, Any] = {}
    variadic: tuple[Any, ...] = ()
    for name, value in bound.arguments.items():
        parameter = signature.parameters[name]
        if parameter.kind is _ALL:
            variadic = value
        elif parameter.kind is _REST:
            named.update(value)
        elif not certain and _contradicts(parameter.annotation, value):
            return None
        else:
            named[name] = value
    names = _positional(signature)
    return CallArguments((*(named[name] for name in names), *variadic), names, named)


def _contradicts(annotation: object, value: object) -> bool:
    """Whether an overload that wants ``annotation`` can't be meant by ``value``."""
    wanted = str(annotation)
    if annotation is inspect.Parameter.empty or value is None or "typing.Any" in wanted:
        return False
    if isinstance(value, fx.Node):
        return meta.tensor_info(value) is not None and "Tensor" not in wanted
    if isinstance(value, str) or "'str'" in wanted:
        return not (isinstance(value, str) and "str" in wanted)
    if isinstance(value, (tuple, list)):
        return not any(kind in wanted for kind in ("List", "list", "Sequence", "tuple", "Size"))
    return "Tensor" in wanted and "Number" not in wanted and "float" not in wanted


# -- signatures ----------------------------------------------------------------------------------
def _signatures(node: fx.Node, module: nn.Module | None) -> Iterator[inspect.Signature]:
    """The signatures that a call may have, the likeliest first."""
    if module is not None:
        yield _written(module.forward)
    elif node.op == "call_method":
        yield from _of_method(str(node.target))
    elif node.op == "call_function" and callable(node.target):
        normal = _normal(node)
        yield from (normal,) if normal is not None else _of_function(node.target)


@cache
def _of_function(function: Callable[..., object]) -> tuple[inspect.Signature, ...]:
    if inspect.isfunction(function):
        return (_written(function),)
    schemas = get_signature_for_torch_op(function)
    if schemas:
        return tuple(schemas)
    try:
        return (_written(function),)
    except (TypeError, ValueError):
        return ()


def _written(function: Callable[..., object]) -> inspect.Signature:
    """The signature of a Python function; annotations, which tell overloads apart, mean nothing."""
    signature = inspect.signature(function)
    plain = (p.replace(annotation=p.empty) for p in signature.parameters.values())
    return signature.replace(parameters=list(plain))


@cache
def _of_method(name: str) -> tuple[inspect.Signature, ...]:
    """The signatures of a method of tensors, the tensor called as the method calls it."""
    method = getattr(torch.Tensor, name, None)
    if inspect.isfunction(method):
        return (_written(method),)
    packet = getattr(torch.ops.aten, name, None)
    return () if packet is None else _of_function(packet)


def _normal(node: fx.Node) -> inspect.Signature | None:
    """The signature of a function of PyTorch that only hands its arguments on to one of two."""
    function = node.target
    if not inspect.isfunction(function) or not function.__module__.startswith("torch."):
        return None
    if not any(p.kind is _REST for p in _of_function(function)[0].parameters.values()):
        return None
    normal = normalize_function(
        function, node.args, dict(node.kwargs), normalize_to_only_use_kwargs=True
    )
    if normal is None:
        return None
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(n, kind, default=v) for n, v in normal.kwargs.items()]
    return inspect.Signature(parameters)


def _variadic(node: fx.Node) -> CallArguments | None:
    """The arguments of a method that writes out a list, its last one: ``x.view(2, 3)``."""
    if node.op != "call_method" or len(node.args) < 2:
        return None
    packed = (node.args[0], tuple(node.args[1:]))
    for signature in _of_method(str(node.target)):
        found = _bound(signature, packed, dict(node.kwargs))
        if found is not None:
            return CallArguments(node.args, (), found.named)
    return None
