"""Nodes that are canonical operations: which they are, and their arguments by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from torch import fx

from qfx.vocab.definition import OpDef


def is_op(node: fx.Node, *which: OpDef) -> bool:
    """Whether ``node`` is a canonical operation (one of ``which``, when given)."""
    if node.op != "call_function" or not isinstance(node.target, OpDef):
        return False
    return not which or node.target in which


def bound(node: fx.Node) -> dict[str, Any]:
    """All arguments of a canonical node by parameter name, defaults filled in."""
    assert isinstance(node.target, OpDef)
    plain = bound_plainly(node.target, node.args, node.kwargs)
    if plain is not None:
        return plain
    arguments = node.target.signature.bind(*node.args, **node.kwargs)
    arguments.apply_defaults()
    return dict(arguments.arguments)


def bound_plainly(
    op: OpDef, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> dict[str, Any] | None:
    """What ``signature.bind`` finds, ten times as fast; None unless all is as it should be."""
    defaults, names, required = _parameters(op)
    count = len(args)
    if count >= len(required):
        return None
    arguments = defaults.copy()
    arguments.update(zip(names, args, strict=False))
    if kwargs:
        if not kwargs.keys().isdisjoint(names[:count]):
            return None
        arguments.update(kwargs)
    if len(arguments) > len(defaults) or not required[count] <= kwargs.keys():
        return None
    return arguments


class _Parameters(NamedTuple):
    """What binding arguments to an operation takes.

    Attributes:
        defaults: by name, in order.
        names: those that may be given by position.
        required: behind so many positional arguments, the names that must be given by keyword;
            empty where ``*args`` or the like may be given.
    """

    defaults: dict[str, Any]
    names: tuple[str, ...]
    required: tuple[frozenset[str], ...]


@cache
def _parameters(op: OpDef) -> _Parameters:
    parameters = op.signature.parameters.values()
    defaults = {p.name: p.default for p in parameters}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if not {p.kind for p in parameters} <= set(named):
        return _Parameters(defaults, (), ())
    names = tuple(p.name for p in parameters if p.kind is named[0])
    needed = frozenset(p.name for p in parameters if p.default is inspect.Parameter.empty)
    behind = (needed.difference(names[:count]) for count in range(len(names) + 1))
    return _Parameters(defaults, names, tuple(behind))
