"""What a new node looks like: its attributes, its name, and what it inherits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

from qfx.errors import PatternError
from qfx.vocab import OpDef

_KEPT_META = ("stack_trace", "nn_module_stack")
_LONGEST_NAME = 60


def check_call(op: OpDef, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    """Refuse arguments that ``op`` does not take: here, where the line that gives them is known."""
    misfit = _misfit(op, len(args), tuple(kwargs))
    if misfit:
        raise PatternError(
            f"{op.name} does not take what it is given: {misfit}. It is {op.name}{op.signature}"
        )


@cache
def _misfit(op: OpDef, count: int, names: tuple[str, ...]) -> str:
    """Why ``op`` can't be called with so many operands and attributes of these names, or ""."""
    try:
        op.signature.bind(*(None,) * count, **dict.fromkeys(names))
    except TypeError as error:
        return str(error)
    return ""


def without_defaults(op: OpDef, kwargs: dict[str, Any]) -> dict[str, Any]:
    """``kwargs`` less those that equal the defaults of ``op``: the canonical form."""
    parameters = op.signature.parameters
    return {
        name: value
        for name, value in kwargs.items()
        if name not in parameters or not _same(parameters[name].default, value)
    }


def _same(default: object, value: object) -> bool:
    if isinstance(value, (fx.Node, Tensor, torch.SymInt)) or type(default) is not type(value):
        return False
    return bool(default == value)


def inherit(node: fx.Node, sources: Sequence[fx.Node]) -> None:
    """Keep what other tools of PyTorch read of a node's origin: of the last source that has it."""
    for key in _KEPT_META:
        for source in reversed(sources):
            if key in source.meta:
                node.meta[key] = source.meta[key]
                break


def joined_name(sources: Sequence[fx.Node]) -> str | None:
    """Name after the compute nodes among ``sources``; a prefix they share appears once."""
    names = [s.name for s in sources if s.op != "get_attr"] or [s.name for s in sources]
    if len(names) < 2:
        return names[0] if names else None
    low, high = min(names), max(names)
    differ = next((i for i, c in enumerate(low) if c != high[i : i + 1]), len(low))
    cut = low.rfind("_", 0, differ) + 1
    joined = "_".join([names[0], *(n[cut:] for n in names[1:])])
    return joined if len(joined) <= _LONGEST_NAME else names[-1]
