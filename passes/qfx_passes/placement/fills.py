"""Numbers that stand for infinity: what masks and pads fill with, and no scale can represent.

-inf, the least number of a dtype, or what people write for it: -1e9, -65504, -1e4. A range that
reached so far would leave no codes for the values. They are written into places that a mask tells,
or added, as a mask of zeros and such numbers: a constant, or ``(1 - mask) * -1e9``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.graph import meta
from qfx.graph.lookup import attribute_of
from qfx.vocab import Kind, OpDef, is_op

_FAR = 1e4
_SCALARS = frozenset(vocab.SCALARS.values())
_OF_ONE = frozenset({"tensor", "as_tensor", "scalar_tensor"})
"""Functions that make a tensor of the number that they are given first."""

_FILLING = frozenset(
    {
        *("masked_fill", "masked_fill_", "where", "index_fill", "index_fill_", "fill_"),
        *("full", "full_like", "new_full", "new_tensor", "pad", "setitem", "nan_to_num"),
        *("index_put", "index_put_", "masked_scatter", "masked_scatter_", "index_copy"),
        *("index_copy_", "scatter", "scatter_", "copy_"),
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

    Followed through what moves, joins, adds and scales. A maximum over them holds none any more.
    """
    found: dict[fx.Node, fx.Node] = {}
    masks: set[fx.Node] = set()
    for node in graph.nodes:
        if _is_mask(node, masks):
            masks.add(node)
        if _fills(node) or _scales(node, masks) or _is_additive(node):
            found[node] = node
        elif _hands_on(node):
            sources = (found[operand] for operand in node.all_input_nodes if operand in found)
            source = next(sources, None)
            if source is not None:
                found[node] = source
    return found


def _name(node: fx.Node) -> str:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.lower()


def _fills(node: fx.Node) -> bool:
    values = (*node.args, *node.kwargs.values()) if _name(node) in _OF_ONE else ()
    if _name(node) in _FILLING:
        values = (*node.args[1:], *node.kwargs.values())
    return any(map(_is_far, values))


def _is_far(value: object) -> bool:
    number = number_of(value)
    return number is not None and abs(number) >= _FAR


def _hands_on(node: fx.Node) -> bool:
    """Whether ``node`` yields the values of its operands, moved, added to or scaled."""
    target = node.target
    if not isinstance(target, OpDef):
        return _name(node) in _FILLING
    return target.kind in (Kind.SHAPE, Kind.JOIN) or target.affine or target.name in _FILLING


def _is_mask(node: fx.Node, masks: set[fx.Node]) -> bool:
    """Whether ``node`` is true or false, a whole number, or either as a float; ``1 - mask`` too."""
    info = meta.tensor_info(node)
    if info is not None and not info.dtype.is_floating_point:
        return True
    target, operands = node.target, node.all_input_nodes
    keeps = isinstance(target, OpDef) and (target.kind is Kind.SHAPE or target.affine)
    return keeps and bool(operands) and masks.issuperset(operands)


def _scales(node: fx.Node, masks: set[fx.Node]) -> bool:
    """Whether ``node`` makes such numbers of a mask, or of what it takes for one: ``x * -1e9``."""
    masked = not masks.isdisjoint(node.all_input_nodes)
    if is_op(node, vocab.LOG):
        return masked
    factors = [node.kwargs.get("alpha")] if is_op(node, vocab.ADD, vocab.SUB) else node.args
    if not is_op(node, vocab.ADD, vocab.SUB, vocab.MUL) or meta.tensor_info(node) is None:
        return False
    numbers = [number for number in map(number_of, factors) if number is not None]
    return any(number <= -_FAR or (masked and number >= _FAR) for number in numbers)


def _is_additive(node: fx.Node) -> bool:
    """Whether ``node`` is a constant of zeros and such numbers alone, or has infinite ones."""
    if node.op != "get_attr" or not any(map(_hands_on, node.users)):
        return False
    value = attribute_of(node.graph.owning_module, str(node.target))
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.is_meta:
        return False
    far = value.detach().abs() >= _FAR
    return bool(far.any()) and bool((far | (value == 0)).all() or value.isinf().any())
