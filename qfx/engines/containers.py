"""Containers that recurrent layers yield.

Of ``y, state = lstm(x); return y, state`` a piece hands out the tensors ``y``, ``state[0]`` and
``state[1]``; outside it is ``(y, (state[0], state[1]))`` again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx

from qfx import vocab
from qfx.graph import meta
from qfx.graph.meta import TensorInfo
from qfx.vocab import is_op


def takes_element(node: fx.Node) -> bool:
    """Whether ``node`` takes something out of a container, or a part of a tensor."""
    name = getattr(node.target, "__name__", "")
    return node.op == "call_function" and name.lower() == "getitem"


def is_state(node: fx.Node, maker: fx.Node) -> bool:
    """Whether ``node`` yields a tuple of tensors that ``maker`` made, a recurrent layer.

    Their tuples are plain ones; where others are named, outside would lose the names.
    """
    value = meta.value_of(node)
    return is_op(maker, *vocab.RECURRENT) and isinstance(value, tuple) and _holds_tensors(value)


def _holds_tensors(value: object) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(map(_holds_tensors, value))
    return isinstance(value, TensorInfo)


def tensors_of(graph: fx.Graph, node: fx.Node, value: meta.Value) -> Iterator[fx.Node]:
    """The tensors in what ``node`` yields, taken out at the end of ``graph``, in order."""
    if not isinstance(value, tuple):
        yield node
        return
    for index, element in enumerate(value):
        part = graph.call_function(vocab.GETITEM, (node, index))
        meta.set_value(part, element)
        yield from tensors_of(graph, part, element)


def whole(value: meta.Value, tensors: Iterator[fx.Node]) -> Any:
    """The container that ``value`` describes, of the next of ``tensors``."""
    if not isinstance(value, tuple):
        return next(tensors)
    return tuple(whole(element, tensors) for element in value)
