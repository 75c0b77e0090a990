"""Inputs as users give them, by name of the model's arguments and of a file's inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from qfx.errors import ConfigError
from qfx.graph import meta
from qfx.graph.meta import TensorInfo
from qfx.graph.steps import arguments_by_name, called_with
from qfx.torch_private import pytree

_KINDS = {
    torch.float32: "float",
    torch.float64: "double",
    **{getattr(torch, name): name for name in ("float16", "bfloat16", "bool")},
    **{getattr(torch, f"{u}int{n}"): f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)},
}
"""What ONNX Runtime calls dtypes, in "tensor(float)"."""


def by_name(
    reference: fx.GraphModule, inputs: object, *, called: str, takes: str
) -> dict[str, Any]:
    """The arguments of the model by name, with defaults.

    Args:
        reference: the graph that takes them.
        inputs: a tensor, positional arguments, or a mapping of arguments by name, in which
            ``*args`` is a sequence, and ``**kwargs`` may be a mapping.
        called: what the user's argument is called.
        takes: what inputs there are, for messages.

    Raises:
        ConfigError: they don't fit the signature of the model.
    """
    args: tuple[Any, ...] = ()
    named: dict[str, Any] = {}
    if isinstance(inputs, Mapping):
        args, named = called_with(reference.graph, inputs)
    elif isinstance(inputs, Tensor):
        args = (inputs,)
    elif isinstance(inputs, (tuple, list)):
        args = tuple(inputs)
    else:
        raise ConfigError(
            f"{called} is {type(inputs).__name__}; give a tensor, a tuple of positional arguments, "
            "or a mapping of arguments by name"
        )
    try:
        return arguments_by_name(reference.graph, args, named)
    except TypeError as error:
        given = ", ".join([*map(_of, args), *(f"{n} {_of(v)}" for n, v in named.items())])
        raise ConfigError(
            f"{called} don't fit the model: {error}. It takes {takes}; given: {given or 'nothing'}"
        ) from None


def of_model(reference: fx.GraphModule) -> str:
    """What a model takes, for messages."""
    nodes = reference.graph.find_nodes(op="placeholder")
    return ", ".join(f"{node.target} {_of(meta.value_of(node))}".strip() for node in nodes)


def of_file(session: Any) -> str:
    """What a file takes, for messages."""
    return ", ".join(f"{i.name} {_kind(i)}{_shape(i.shape)}" for i in session.get_inputs())


def feeds(reference: fx.GraphModule, arguments: Mapping[str, object]) -> list[Tensor]:
    """The tensors among the arguments, in the order of the inputs."""
    found: list[Tensor] = []
    for node in reference.graph.find_nodes(op="placeholder"):
        value = arguments.get(str(node.target).lstrip("*"))
        found += [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
    return found


def check_feeds(session: Any, tensors: Sequence[Tensor]) -> None:
    """ConfigError that names what is wrong, unless a file takes ``tensors``."""
    inputs = session.get_inputs()
    wrong = (
        [f"{len(inputs)} tensors are needed, not {len(tensors)}"]
        if len(inputs) != len(tensors)
        else [text for i, t in zip(inputs, tensors, strict=True) for text in _misfits(i, t)]
    )
    if wrong:
        raise ConfigError(
            f"inputs don't fit the file: {'; '.join(wrong)}. It takes {of_file(session)}; given: "
            f"{', '.join(map(_of, tensors)) or 'no tensors'}"
        )


def _misfits(taken: Any, given: Tensor) -> Iterator[str]:
    """What is wrong with one tensor."""
    kind = _KINDS.get(given.dtype, str(given.dtype))
    if kind != _kind(taken):
        yield f"{taken.name} is {kind} instead of {_kind(taken)}"
    if len(taken.shape) != given.dim():
        yield f"{taken.name} has {given.dim()} dims instead of {len(taken.shape)}"
        return
    for dim, (want, have) in enumerate(zip(taken.shape, given.shape, strict=True)):
        if isinstance(want, int) and want != have:
            yield f"dim {dim} of {taken.name} is {have} instead of {want}"


def _kind(taken: Any) -> str:
    return str(taken.type).removeprefix("tensor(").removesuffix(")")


def _shape(shape: Sequence[object]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _of(value: object) -> str:
    """Dtype and shape of a tensor; the type of anything else."""
    if isinstance(value, (Tensor, TensorInfo)):
        return f"{_KINDS.get(value.dtype, value.dtype)}{_shape(tuple(value.shape))}"
    return "" if value is None else type(value).__name__
