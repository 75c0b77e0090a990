"""Post-ops as operations, and back: ``("clamp", 0.0, 6.0)`` is ``clamp(y, min=0.0, max=6.0)``.

What they compute is :mod:`qfx.semantics.post`; they are operations of the vocabulary by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import fx

from qfx.vocab.definition import OpDef, lookup
from qfx.vocab.nodes import bound


class PostCall(NamedTuple):
    """What a post-op calls on a result.

    Attributes:
        op: the operation.
        operands: the tensors that it reads beside the result: a residual.
        attributes: its numbers, by name.
    """

    op: OpDef
    operands: tuple[Any, ...]
    attributes: dict[str, Any]


def call_of_post_op(post_op: Sequence[Any]) -> PostCall:
    """The call that a post-op ``(name, *values)`` stands for."""
    name, *values = post_op
    op = lookup(name)
    if name == "add":
        return PostCall(op, tuple(values), {})
    _, *names = op.signature.parameters
    return PostCall(op, (), dict(zip(names, values, strict=False)))


def post_op_of_call(activation: fx.Node) -> tuple[Any, ...]:
    """The post-op that stands for a canonical activation."""
    assert isinstance(activation.target, OpDef)
    _, *attributes = bound(activation).values()
    return activation.target.name, *attributes


def bounds_of_post_op(post_op: Sequence[Any]) -> tuple[float | None, float | None]:
    """Between what a relu or clamp keeps values; None where it does not."""
    name, *values = post_op
    if name == "relu":
        return 0.0, None
    low, high = (*values, None, None)[:2] if name == "clamp" else (None, None)
    return low, high
