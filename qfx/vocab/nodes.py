"""Nodes that are canonical operations: which they are, and their arguments by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import fx

from qfx.vocab.definition import OpDef

_EMPTY = inspect.Parameter.empty


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
    defaults, positional = _parameters(op)
    if len(args) > positional:
        return None
    given = dict(zip(defaults, args, strict=False))
    if kwargs and not given.keys().isdisjoint(kwargs):
        return None
    arguments = {**defaults, **given, **kwargs}
    if len(arguments) > len(defaults):
        return None
    for value in arguments.values():  # any() of a generator takes twice as long
        if value is _EMPTY:
            return None
    return arguments


@cache
def _parameters(op: OpDef) -> tuple[dict[str, Any], int]:
    """Defaults by name, and how many may be given by position: -1 if ``*args`` or the like is."""
    parameters = op.signature.parameters
    kinds = [p.kind for p in parameters.values()]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    positional = kinds.count(named[0]) if set(kinds) <= set(named) else -1
    return {name: p.default for name, p in parameters.items()}, positional
