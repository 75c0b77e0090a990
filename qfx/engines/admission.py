"""What a call must be like to be run by pieces that were built: its key, and the guards.

The key of a call is what its arguments are but for the numbers in tensors. A call whose key was
seen before is run without looking further. The guards of a model, by which it refuses sizes or
values that it was not captured for, are asked once a key, on tensors without memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.errors import ConfigError
from qfx.graph import meta
from qfx.graph.interpret import NamedInterpreter
from qfx.graph.meta import TensorInfo
from qfx.graph.steps import arguments_by_name
from qfx.torch_private import pytree
from qfx.vocab import is_op

_PLAIN = (int, float, bool, str, type(None))


class UnknownArgument(Exception):  # noqa: N818 - control flow within the room
    """An argument that nothing is known of."""


def key_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """The key of a call.

    Raises:
        Unknown: an argument is neither a tensor nor plain, nor a container of these.
    """
    if not kwargs:
        return tuple([_key(value) for value in args])
    return (*[_key(value) for value in args], *[(n, _key(v)) for n, v in kwargs.items()])


def _key(value: object) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, (tuple, list)):
        return (type(value), *[_key(item) for item in value])
    if isinstance(value, Mapping):
        return (type(value), *[(name, _key(item)) for name, item in value.items()])
    raise UnknownArgument(type(value).__name__)


def asks_numbers(error: Exception) -> bool:
    """Whether guards raised it as they ask for the numbers in tensors, of which there are none."""
    return isinstance(error, RuntimeError) and "meta tensor" in str(error)


class Guards:
    """The guards of a graph, and the part of it that they ask about."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self._module = graph_module
        stack = [n for n in graph_module.graph.nodes if is_op(n, vocab.GUARD)]
        self._asked: set[fx.Node] = set()
        while stack:
            node = stack.pop()
            if node not in self._asked:
                self._asked.add(node)
                stack.extend(node.all_input_nodes)

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise what the model raises for arguments that it was not captured for.

        Raises:
            ConfigError: tensors of other dtypes, or on other devices.
            Exception: whatever guards raise.
        """
        arguments = arguments_by_name(self._module.graph, args, kwargs)
        self._check_tensors(arguments)
        if not any(is_op(node, vocab.GUARD) for node in self._asked):
            return
        empty = pytree.tree_map(_without_memory, arguments)
        slice_of = _Slice(self._module, empty, self._asked)
        with torch.no_grad(), torch.device("meta"):
            slice_of.run()

    def _check_tensors(self, arguments: Mapping[str, Any]) -> None:
        for node in self._module.graph.find_nodes(op="placeholder"):
            name = str(node.target).lstrip("*")
            for given, known in _pairs(arguments.get(name), meta.value_of(node)):
                if given.device.type != "cpu":
                    raise ConfigError(
                        f"{name} is on {given.device}, and a compiled model runs on the CPU: give "
                        f"{name}.cpu()"
                    )
                if given.dtype != known.dtype:
                    raise ConfigError(
                        f"{name} is {given.dtype} and the model was captured with {known.dtype}: "
                        f"{name}.to({known.dtype})"
                    )


def _pairs(given: object, known: object) -> list[tuple[Tensor, TensorInfo]]:
    """Tensors beside what they were captured as."""
    if isinstance(known, TensorInfo):
        if not isinstance(given, Tensor):
            raise ConfigError(
                f"the model was captured with a tensor where it is given {type(given).__name__}"
            )
        return [(given, known)]
    leaves = pytree.tree_leaves(given)
    infos = pytree.tree_leaves(known, is_leaf=lambda leaf: isinstance(leaf, TensorInfo))
    if len(leaves) != len(infos):
        return []
    return [
        (leaf, info)
        for leaf, info in zip(leaves, infos, strict=True)
        if isinstance(leaf, Tensor) and isinstance(info, TensorInfo)
    ]


def _without_memory(value: object) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty(value.shape, dtype=value.dtype, device="meta")


class _Slice(NamedInterpreter):
    """Runs some of the nodes of a graph."""

    def __init__(
        self, module: fx.GraphModule, arguments: Mapping[str, Any], nodes: set[fx.Node]
    ) -> None:
        super().__init__(module, arguments)
        self._nodes = nodes

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        found = super().get_attr(target, args, kwargs)
        return found.to("meta") if isinstance(found, Tensor) else found

    def run_node(self, n: fx.Node) -> Any:
        return super().run_node(n) if n in self._nodes else None
