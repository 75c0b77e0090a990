"""Numbers that stand for infinity: what masks and pads fill with, and no scale can represent.

-inf, the least number of a dtype, or what people write for it: -1e9, -65504, -1e4. A range that
reached so far would leave no codes for the values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from qfx import vocab
from qfx.graph import meta
from qfx.vocab import Kind, OpDef, is_op

_FAR = 1e4
_SCALARS = frozenset(vocab.SCALARS.values())
_FILLING = frozenset(
    {
        *("masked_fill", "masked_fill_", "where", "index_fill", "index_fill_", "fill_"),
        *("full", "full_like", "new_full", "pad", "setitem"),
    }
)
"""Functions and methods that put a given number where no value is."""


def number_of(value: object) -> float | None:
    """A number that is written down, or follows from the dtype of a tensor; None for others.

    ``torch.finfo(x.dtype).min`` is what it is for the captured dtype.
    """
    found = _evaluated(value)
    return float(found) if type(found) in (int, float) else None  # type: ignore[arg-type]


def _evaluated(value: object) -> object:
    if not isinstance(value, fx.Node):
        return value
    if is_op(value, vocab.DTYPE):
        info = meta.tensor_info(value.args[0])  # type: ignore[arg-type]
        return None if info is None else info.dtype
    function: Any = value.target
    if function not in (torch.finfo, getattr) and function not in _SCALARS:
        return None
    operands = [_evaluated(operand) for operand in value.args]
    if value.kwargs or any(operand is None for operand in operands):
        return None
    found: object = function(*operands)
    return found


def filled(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Values that hold such numbers, and what put them there: one forward sweep.

    Followed through what moves and joins values. A maximum over them holds none any more.
    """
    found: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if _fills(node):
            found[node] = node
        elif isinstance(node.target, OpDef) and node.target.kind in (Kind.SHAPE, Kind.JOIN):
            sources = (found[operand] for operand in node.all_input_nodes if operand in found)
            source = next(sources, None)
            if source is not None:
                found[node] = source
    return found


def _fills(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name.lower() not in _FILLING:
        return False
    numbers = (number_of(value) for value in (*node.args[1:], *node.kwargs.values()))
    return any(number is not None and abs(number) >= _FAR for number in numbers)
