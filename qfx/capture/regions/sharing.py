"""Graphs shared by modules that are alike: captured for one, put over the weights of the others.

Models repeat their parts: what is captured of one layer of forty holds for all of them, if they are
of the same classes, have equal attributes, tensors of the same shapes, and are called alike. Unless
forward decides by the values of weights: then the graph holds for those. What comes of it is
checked on the calls of each, as what is captured is.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, fx, nn

from qfx.capture.capture import BY_DRAW, BY_WEIGHTS, EXPECTED, graph_module_of
from qfx.capture.tracing import OPAQUE_ROOTS
from qfx.graph.clone import copy_graph
from qfx.graph.copying import Holder, copy_of
from qfx.private_attributes import (
    REGISTRIES,
    modules_held,
    parameters_held,
    tensors_held,
    unsaved_buffers,
)
from qfx.torch_private import pytree

if TYPE_CHECKING:
    from qfx.capture.regions.recording import Calls, RecordedCall

Key: TypeAlias = Hashable

_PLAIN = (bool, int, str, type(None), torch.dtype, torch.device, enum.Enum)
_OF_MODULES = frozenset(vars(nn.Module()))


class _UnlikeAllError(Exception):
    """Something is like nothing else."""


def likeness(module: nn.Module, calls: Calls) -> Key | None:
    """Equal for modules of which one graph may hold; None for one that is like no other."""
    numbers: dict[int, int] = {}
    try:
        return _of_module(module, numbers), tuple(_of_call(each, numbers) for each in calls.kept)
    except _UnlikeAllError:
        return None


def _of_module(module: nn.Module, numbers: dict[int, int]) -> Key:
    known = id(module) in numbers
    number = numbers.setdefault(id(module), len(numbers))
    if known:
        return number
    held = vars(module)
    if isinstance(module, torch.jit.ScriptModule) or any(_hooks(held)):
        raise _UnlikeAllError
    own = tuple((k, _of_value(v)) for k, v in held.items() if k not in _OF_MODULES)
    tensors = tuple(
        (name, None if tensor is None else _of_tensor(tensor, numbers))
        for registry in tensors_held(module)
        for name, tensor in registry.items()
    )
    children = tuple(
        (name, None if child is None else _of_module(child, numbers))
        for name, child in modules_held(module).items()
    )
    count, unsaved = len(parameters_held(module)), frozenset(unsaved_buffers(module))
    return type(module), module.training, own, tensors, count, unsaved, children


def _hooks(held: dict[str, object]) -> Iterator[object]:
    """What is hooked to a module."""
    names = (n for n in _OF_MODULES if n not in REGISTRIES)
    yield from (held[n] for n in names if isinstance(held.get(n), dict) and held[n])


def _of_value(value: object) -> Key:
    """The value of what is plain; of anything else, which one it is."""
    if type(value) is float:
        return float, value.hex()  # -0.0 is not 0.0 here, and nan is nan
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, (tuple, list)):
        return (type(value), *map(_of_value, value))
    if isinstance(value, dict):
        return (type(value), *((_of_value(k), _of_value(v)) for k, v in value.items()))
    if isinstance(value, Tensor):
        raise _UnlikeAllError
    return "the object", id(value)


def _of_tensor(tensor: Tensor, numbers: dict[int, int]) -> Key:
    if tensor.layout is not torch.strided:
        raise _UnlikeAllError
    number = numbers.setdefault(id(tensor), len(numbers))
    described = (tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad)
    return type(tensor), number, *described, tensor.is_conj(), tensor.is_neg()


def _of_call(call: RecordedCall, numbers: dict[int, int]) -> Key:
    leaves, spec = pytree.tree_flatten((call.args, call.kwargs))
    return str(spec), *(
        _of_tensor(leaf, numbers) if isinstance(leaf, Tensor) else _of_value(leaf)
        for leaf in leaves
    )


def put_over(captured: fx.GraphModule, module: nn.Module) -> fx.GraphModule | None:
    """The graph that was captured of a module like ``module``, over a copy of that.

    Args:
        captured: the graph, as it was captured.
        module: never mutated.

    Returns:
        What :func:`qfx.capture.capture.capture` would return, without EXPECTED; None if it must be
        captured.
    """
    if captured.meta[BY_WEIGHTS] or captured.meta[BY_DRAW]:
        return None
    root = copy_of(module)
    if isinstance(root, OPAQUE_ROOTS):
        root = Holder(root)
    if not all(_has(root, node) for node in captured.graph.nodes):
        return None
    made = graph_module_of(root, copy_graph(captured.graph), type(module).__name__)
    made.meta.update({key: said for key, said in captured.meta.items() if key != EXPECTED})
    return made


def _has(root: nn.Module, node: fx.Node) -> bool:
    """Whether what a node reads is there: a constant that tracing made is not."""
    if node.op not in ("get_attr", "call_module"):
        return True
    try:
        attrgetter(str(node.target))(root)
    except AttributeError:
        return False
    return True
