"""Graphs that passes left, to go on from: they keep their names, origins and level.

Capture would trace the code of such a graph, in which nobody's lines and modules are left, and look
into operations that are one node by now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import fx, nn

from qfx.capture.arguments import copy_tensors
from qfx.capture.capture import EXPECTED
from qfx.errors import ConfigError, QfxError
from qfx.framework.levels import LEVEL, Level
from qfx.graph import meta
from qfx.graph.clone import clone_graph_module
from qfx.graph.steps import Steps, arguments_by_name, state_kept
from qfx.graph.working import WorkingGraphModule


def level_of(model: nn.Module) -> Level | None:
    """How far passes have taken the graph that ``model`` is; None if it is none of theirs."""
    found = model.meta.get(LEVEL) if isinstance(model, fx.GraphModule) else None
    return found if isinstance(found, Level) else None


def continued(
    graph_module: fx.GraphModule, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> WorkingGraphModule:
    """A copy of a graph that passes left, whose nodes yield what they do for these inputs.

    Raises:
        ConfigError: the graph can't run on them.
    """
    found = clone_graph_module(graph_module, deep=True)
    try:
        given = arguments_by_name(found.graph, *copy_tensors((args, dict(kwargs))))
        with state_kept(found):
            steps = Steps(found, given)
            for node in found.graph.nodes:
                _describe(node, steps.step(node))
    except QfxError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the example inputs do not fit the graph: {type(error).__name__}: {error}"
        ) from error
    return found


def resumed(
    model: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> WorkingGraphModule | None:
    """A graph that passes left, as if it had just been captured: each node is its own origin.

    None where ``model`` is no such graph, or has got further than the canonical form.

    Raises:
        ConfigError: the graph can't run on the inputs.
    """
    level = level_of(model)
    if level is None or level > Level.CANONICAL or not isinstance(model, fx.GraphModule):
        return None
    found = continued(model, args, kwargs)
    for node in found.graph.nodes:
        if node.op.startswith("call_"):
            first = meta.origins(node)[:1] or (meta.Origin(node.name, "", "", ""),)
            meta.set_origins(node, (replace(first[0], node=node.name),))
    del found.meta[LEVEL]
    left = copy_tensors((args, dict(kwargs)))
    with state_kept(found), torch.no_grad():
        found.meta[EXPECTED] = found(*left[0], **left[1])
    return found


def _describe(node: fx.Node, value: object) -> None:
    if node.op != "output":
        meta.set_value(node, meta.describe(value))
    if meta.ORIGINS not in node.meta:  # somebody has put it there since
        meta.copy_meta(node, *node.all_input_nodes, rule="")
