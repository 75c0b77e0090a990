"""Names that a graph module uses itself, and what becomes of a model's attributes called so.

A model may call a child "graph", "code" or "report". In its graph module that attribute gets an
underscore: the child is ``gm.graph_``, and its parameters are ``graph_.weight`` in ``state_dict``.
Reports and configurations know it by the name that the model has for it.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import fx, nn

from qfx.private_attributes import (
    OF_GRAPH_MODULES,
    buffers_held,
    modules_held,
    parameters_held,
    unsaved_buffers,
)

_OURS = frozenset(
    {
        *("called", "_reference", "_rounded", "_lowering"),
        *("settings", "history", "report", "backend", "reference", "needs", "tuning"),
        *(
            "outdate",
            "has_observers",
            "copy_to_convert",
            "calibrating",
            "restore_buffers",
            "update_code",
        ),
        *("_refuse_moves", *OF_GRAPH_MODULES, "_made_of"),
        *("_as_seen_around", "_region", "_in_place", "_ways", "_tells_dtype"),
        *("alone", "over", "_answer", "was_calibrated"),
        *("fake_quants", "in_mode_of", "batchnorm_frozen", "schedule"),
        *("freeze_batchnorm", "_freeze_batchnorm"),
        *("parameters_changed", "_changed", "_written", "_writes"),
        *("samples", "_offer_sample", "_takes", "_in_order", "ordered_examples"),
    }
)
"""Attributes of what is made from graph modules."""


@functools.cache
def reserved() -> frozenset[str]:
    """What a model's attribute can't be called in a graph module."""
    graph = fx.Graph()
    graph.output(None)
    of_graph_modules = dir(fx.GraphModule(nn.Module(), graph))
    return (frozenset(of_graph_modules) - frozenset(dir(nn.Module()))) | _OURS


def rename_reserved(root: nn.Module, graph: fx.Graph) -> None:
    """Rename attributes of ``root`` that are called like one of a graph module."""
    renamed = {name: _free(root, name) for name in sorted(reserved()) if _has(root, name)}
    if not renamed:
        return
    for registry in _registries(root):
        _rename_keys(registry, renamed)
    for name in [n for n in renamed if isinstance(vars(root).get(n), torch.Tensor)]:
        vars(root)[renamed[name]] = vars(root).pop(name)  # a tensor that is no buffer
    unsaved = unsaved_buffers(root)
    for name in unsaved & renamed.keys():
        unsaved.remove(name)
        unsaved.add(renamed[name])
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            first, dot, rest = str(node.target).partition(".")
            node.target = renamed.get(first, first) + dot + rest


def _registries(root: nn.Module) -> tuple[dict[str, Any], ...]:
    return modules_held(root), parameters_held(root), buffers_held(root)


def _has(root: nn.Module, name: str) -> bool:
    registered = any(name in registry for registry in _registries(root))
    return registered or isinstance(vars(root).get(name), torch.Tensor)


def _free(root: nn.Module, name: str) -> str:
    while hasattr(root, name) or name in reserved():
        name += "_"
    return name


def _rename_keys(registry: dict[str, Any], renamed: dict[str, str]) -> None:
    """Rename keys in place; the order, which ``state_dict`` shows, stays."""
    if registry.keys().isdisjoint(renamed):
        return
    items = [(renamed.get(name, name), value) for name, value in registry.items()]
    registry.clear()
    registry.update(items)
