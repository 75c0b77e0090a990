"""Constants of a model that runs, one attribute lookup away, and shared with those they equal.

The pass ``flatten-constants`` gives every constant that a graph reads a name at the root. There it
is kept in the instance's ``__dict__`` besides its registry, where Python finds it at once.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, fx

from qfx.graph.effects import changing
from qfx.private_attributes import tensors_held


def pin_constants(graph_module: fx.GraphModule) -> None:
    """Keep the root's tensors in its ``__dict__``, too; to be repeated when they are replaced."""
    for registry in tensors_held(graph_module):
        graph_module.__dict__.update({k: v for k, v in registry.items() if v is not None})


def share_constants(graph_module: fx.GraphModule, other: fx.GraphModule) -> None:
    """Let ``graph_module`` hold the very tensors of ``other`` that equal its own.

    Those of the same name; and where neither graph writes to any, matrices of other names, too,
    which are of the same weights: constant folding names what it makes after the operation.
    """
    theirs: dict[str, Tensor] = {}
    for named in (other.named_parameters, other.named_buffers):
        theirs.update(named(remove_duplicate=False))
    known = [] if _writes(graph_module) or _writes(other) else list(theirs.values())
    matrices = [tensor for tensor in known if tensor.dim() > 1]
    for path, module in graph_module.named_modules():
        for registry in tensors_held(module):
            for name, mine in list(registry.items()):
                if mine is None:
                    continue
                likely = chain((theirs.get(f"{path}.{name}".lstrip(".")),), matrices)
                same = (each for each in likely if hold_the_same(mine, each))
                registry[name] = next(same, mine)


def _writes(graph_module: fx.GraphModule) -> bool:
    """Whether the graph may write to what it holds."""
    return any(node.op == "get_attr" for node in changing(graph_module.graph))


def hold_the_same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors are of one kind and hold the same numbers."""
    if one is None or other is None:
        return False
    alike = (one.dtype, one.shape, one.device) == (other.dtype, other.shape, other.device)
    return alike and type(one) is type(other) and torch.equal(one, other)
