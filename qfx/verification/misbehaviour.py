"""What a call can do wrong beside its numbers: write to its inputs, hand out another kind."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, fx

from qfx.graph.effects import is_given_element
from qfx.graph.steps import Steps
from qfx.private_attributes import version_of
from qfx.verification.allowances import relative_error
from qfx.verification.differences import fraction_off
from qfx.vocab import DEVICE, DIM, SIZE, is_op

_SHAPES = (SIZE, DIM, DEVICE)


def nodes_in(arguments: Any) -> list[fx.Node]:
    """All nodes in ``arguments``, as often as they are there."""
    found: list[fx.Node] = []
    fx.map_arg(arguments, found.append)
    return found


class ReadTensor(NamedTuple):
    """A tensor that a call reads, and how often it had been written to."""

    read: fx.Node
    tensor: Tensor
    version: int


def versions(steps: Steps, node: fx.Node) -> list[ReadTensor]:
    """The tensors that ``node`` is about to read."""
    values = {read: steps.env.get(read) for read in node.all_input_nodes}
    tensors = [(n, v) for n, v in values.items() if isinstance(v, Tensor) and not v.is_inference()]
    return [ReadTensor(read, tensor, version_of(tensor)) for read, tensor in tensors]


def written(node: fx.Node, held: ReadTensor) -> bool:
    """Whether ``node`` wrote to a value whose numbers others read later on, or the caller has."""
    if version_of(held.tensor) == held.version:
        return False
    if held.read.op == "placeholder" or is_given_element(held.read):
        return True
    return any(user > node and not is_op(user, *_SHAPES) for user in held.read.users)


def other_kind(value: object, exact: object) -> str:
    """What is wrong where no numbers can be compared, or ""."""
    if not isinstance(exact, Tensor):
        return ""
    if not isinstance(value, Tensor):
        return f"hands out {type(value).__name__}, no tensor"
    if value.shape != exact.shape:
        return f"has the shape {tuple(value.shape)}, not {tuple(exact.shape)}"
    if value.is_floating_point() and exact.is_floating_point() and value.dtype != exact.dtype:
        return f"is of {value.dtype}, not {exact.dtype}"
    return ""


def differs(value: Tensor, exact: Tensor) -> bool:
    """Whether two floats are not the same but for rounding."""
    if not (value.is_floating_point() and exact.is_floating_point()):
        return False
    return fraction_off(value, exact) > relative_error(exact.dtype)
