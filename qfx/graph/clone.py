"""Copies of graph modules: the graph always anew, the tensors shared or copied.

Packed weights are opaque: they can't be copied or saved, and are never written to. Copies share
them, and ``state_dict`` leaves them out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from qfx.graph.leaves import copy_hooks
from qfx.graph.working import WorkingGraphModule
from qfx.private_attributes import (
    MODULES,
    OF_TENSORS,
    REGISTRIES,
    UNSAVED,
    buffers_held,
    code_of,
    modules_held,
    set_arguments,
    tracer_of,
    unsaved_buffers,
)

_Held = TypeVar("_Held")


def clone_graph_module(
    graph_module: fx.GraphModule,
    *,
    deep: bool = False,
    apart: bool = False,
    take: bool = False,
    memo: dict[int, Any] | None = None,
) -> WorkingGraphModule:
    """A plain graph module with a copy of the graph, node meta included.

    Args:
        graph_module: what to copy; any subclass of GraphModule.
        deep: copy parameters, buffers and submodules too, instead of sharing them.
        apart: copy submodules, but share what they hold: passes empty those whose parts they use.
        take: take over the graph itself instead of a copy; ``graph_module`` is used up.
        memo: as for ``__deepcopy__``.
    """
    graph = graph_module.graph if take else copy_graph(graph_module.graph)
    root = nn.Module()
    memo = {} if memo is None else memo
    if deep:
        memo.update((id(value), value) for _, _, value in opaque_values(graph_module))
    for registry in REGISTRIES:
        held = graph_module.__dict__[registry]
        root.__dict__[registry] = deep_copy(held, memo) if deep else held
    if apart:
        root = shell(root)
    for owner, name, value in opaque_values(graph_module):
        if owner is graph_module and name not in buffers_held(graph_module):
            root.__dict__[name] = value
    root.training = graph_module.training
    clone = WorkingGraphModule(root, graph)
    clone.meta = dict(graph_module.meta)
    copy_hooks(graph_module, clone)
    hide_opaque_values(clone)
    return clone


def shell(module: nn.Module) -> nn.Module:
    """A module that holds the same tensors, whose parts can be taken away without touching it."""
    made = _shell(module, {})
    assert made is not None
    return made


def _shell(module: nn.Module | None, made: dict[int, nn.Module | None]) -> nn.Module | None:
    """A module of the same class that holds the same tensors, and shells of the same children."""
    if module is None or isinstance(module, torch.jit.ScriptModule):
        return module
    if id(module) not in made:
        shell = made[id(module)] = type(module).__new__(type(module))
        shell.__dict__.update(module.__dict__)
        for registry in (*OF_TENSORS, UNSAVED):
            shell.__dict__[registry] = module.__dict__[registry].copy()
        copy_hooks(module, shell)
        children = {n: _shell(child, made) for n, child in modules_held(module).items()}
        shell.__dict__[MODULES] = children
    return made[id(module)]


def deep_copy(value: _Held, memo: dict[int, Any]) -> _Held:
    """``copy.deepcopy(value, memo)`` of modules that have run, TorchScript's among them.

    What a module computed and keeps, say in a buffer that it wrote in training, hangs on autograd's
    record of it: deepcopy refuses such tensors, and a copy has no part in that record.
    Parameters of TorchScript's modules are copied by operations, and are leaves here all the same.

    Args:
        value: a module, or a dict of modules or tensors.
        memo: as for ``__deepcopy__``.
    """
    modules = list(_modules_in(value, memo))
    for tensor in _tensors_in((value, [vars(module) for module in modules])):
        if not tensor.is_leaf and id(tensor) not in memo:
            memo[id(tensor)] = tensor.detach().clone()
    with torch.no_grad():
        copied = copy.deepcopy(value, memo)
    for module in modules:
        made = memo.get(id(module)) if isinstance(module, torch.jit.ScriptModule) else None
        if made is not None:
            for ours, theirs in zip(made.parameters(), module.parameters(), strict=True):
                ours.requires_grad_(theirs.requires_grad)
    return copied


def _modules_in(value: object, memo: Mapping[int, Any]) -> Iterator[nn.Module]:
    """The modules that a copy of ``value`` copies: not those that ``memo`` has something for."""
    waiting = list(value.values()) if isinstance(value, dict) else [value]
    met = set(memo)
    while waiting:
        module = waiting.pop()
        if isinstance(module, nn.Module) and id(module) not in met:
            met.add(id(module))
            waiting += module.children()
            yield module


def _tensors_in(value: object) -> Iterator[Tensor]:
    """The tensors that a module keeps, in lists and dicts too: caches of its last call, say."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors_in(item)


def copy_graph(graph: fx.Graph) -> fx.Graph:
    """``copy.deepcopy(graph)``, in half the time."""
    copied = fx.Graph(tracer_cls=tracer_of(graph))
    copy_nodes(graph, copied)
    copied.set_codegen(copy.deepcopy(code_of(graph)))
    return copied


def copy_nodes(graph: fx.Graph, into: fx.Graph) -> None:
    """Copies of all nodes of ``graph``, under their names, at the end of ``into``."""
    now: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        made = now[node] = copy_node(node, into, now)
        if made.name != node.name:
            made.name = node.name  # also where a graph before had nodes of these names


def copy_node(node: fx.Node, into: fx.Graph, now: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """A copy of a node at the end of ``into``, under its name if that is free there.

    Args:
        node: what to copy.
        into: where to.
        now: what stands there for its operands.
    """
    # Arguments come afterwards: create_node searches them for symbolic numbers, at length.
    made = into.create_node(node.op, node.target, name=node.name, type_expr=node.type)
    set_arguments(made, *fx.map_arg((node.args, node.kwargs), now.__getitem__))
    made.meta = dict(node.meta)
    return made


def hide_opaque_values(module: nn.Module) -> None:
    """Keep packed weights out of ``state_dict``."""
    for owner, name, value in list(opaque_values(module)):
        if isinstance(value, Tensor):
            unsaved_buffers(owner).add(name)


def opaque_values(module: nn.Module) -> Iterator[tuple[nn.Module, str, object]]:
    """Each (owner, attribute, value) of a packed weight."""
    for owner in module.modules():
        for name, buffer in buffers_held(owner).items():
            if buffer is not None and is_opaque(buffer):
                yield owner, name, buffer
        for name, value in vars(owner).items():
            if isinstance(value, (torch.ScriptObject, OpaqueValue)):
                yield owner, name, value


class OpaqueValue:
    """A packed weight of a class of our own."""


def is_opaque(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a packed weight, whose memory only kernels understand."""
    return tensor.layout not in _PLAIN or tensor.is_quantized


_PLAIN = (torch.strided, torch.sparse_coo, torch.sparse_csr)
