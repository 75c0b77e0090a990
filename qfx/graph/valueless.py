"""Nodes run on the meta device, where tensors have shapes and dtypes but no values."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg

from qfx.graph import meta
from qfx.graph.copying import side_effects_undone
from qfx.graph.leaves import clear_hooks
from qfx.graph.lookup import Lookup
from qfx.graph.tracing import CAPTURE_LOCK


class Unknown(Exception):  # noqa: N818 - an outcome that callers see to
    """What a node yields or costs can't be told without running it."""


class Valueless:
    """Runs single nodes of a graph without values. Hooks of modules do not run."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self._graph_module = graph_module
        self._lookup = Lookup(graph_module)
        self._known: dict[fx.Node, Any] = {}

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """To be entered around all calls of :meth:`run`, which touch state of the process."""
        with CAPTURE_LOCK, side_effects_undone(self._graph_module):
            yield

    def run(self, node: fx.Node) -> Any:
        """What ``node`` yields; whatever its operation raises, or Unknown."""
        if node.op == "get_attr":
            return _without_values(self._lookup.get(str(node.target)))
        args, kwargs = map_arg((node.args, dict(node.kwargs)), self._stand_in)
        return self._called(node)(*args, **kwargs)

    def _called(self, node: fx.Node) -> Callable[..., Any]:
        if node.op == "call_function" and callable(node.target):
            return node.target
        if node.op == "call_module":
            return _valueless_module(self._graph_module.get_submodule(str(node.target)))
        if node.op == "call_method":
            return lambda receiver, *args, **kwargs: getattr(receiver, str(node.target))(
                *args, **kwargs
            )
        raise Unknown(node.name)

    def _stand_in(self, node: fx.Node) -> Any:
        if node not in self._known:
            value = meta.value_of(node)
            # A number has no recorded value; it may be made of sizes, which are known.
            self._known[node] = meta.without_data(value) if _is_known(value) else self._number(node)
        return self._known[node]

    def _number(self, node: fx.Node) -> Any:
        if node.op != "call_function":
            raise Unknown(node.name)
        return self.run(node)


def _is_known(value: meta.Value) -> bool:
    """Whether a value holds tensors only, whose shapes are all there is to know."""
    if isinstance(value, (tuple, list)):
        return bool(value) and all(map(_is_known, value))
    return isinstance(value, meta.TensorInfo)


def _valueless_module(module: nn.Module) -> nn.Module:
    """A copy of ``module`` on the meta device, without hooks."""
    memo: dict[int, Any] = {}
    for each in module.modules():
        for held in (vars(each), each._parameters, each._buffers):
            tensors = (value for value in held.values() if isinstance(value, torch.Tensor))
            memo.update((id(tensor), _without_values(tensor)) for tensor in tensors)
    copied = copy.deepcopy(module, memo)
    for each in copied.modules():
        clear_hooks(each)
    return copied


def _without_values(held: object) -> Any:
    if not isinstance(held, torch.Tensor):
        return held
    made = torch.empty_like(held, device="meta", requires_grad=False)
    return nn.Parameter(made, requires_grad=False) if isinstance(held, nn.Parameter) else made
