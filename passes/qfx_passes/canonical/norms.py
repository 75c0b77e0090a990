"""Batch-norm modules of a graph that is to be trained: kept aside while they are operations.

Passes see inference: a batch-norm is an operation on its parameters and statistics. In training it
is the user's own module, with its momentum, its counter and its class, under its own name.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, fx, nn

from qfx.graph.source import torch_class
from qfx.private_attributes import buffers_held
from qfx.torch_private import BATCH_NORMS


class Norms:
    """The batch-norm modules of a graph, by path, with the counters that passes drop."""

    def __init__(self, counters: Mapping[str, Tensor | None]) -> None:
        self._counters = counters

    def holds(self, statistic: str) -> bool:
        """Whether the statistic of that name is one of a module which can be restored."""
        return statistic.rpartition(".")[0] in self._counters

    def restore(self, root: nn.Module, path: str) -> bool:
        """Make what is left at ``path`` the module again that it was; False if it was none."""
        if path not in self._counters:
            return False
        root.get_submodule(path).register_buffer("num_batches_tracked", self._counters[path])
        return True


def norms_of(graph: fx.Graph) -> Norms:
    """The batch-norm modules that ``graph`` calls."""
    root, counters = graph.owning_module, {}
    assert root is not None
    for node in graph.nodes:
        if node.op != "call_module":
            continue
        module = root.get_submodule(str(node.target))
        if isinstance(module, BATCH_NORMS) and torch_class(module) is not None:
            counters[str(node.target)] = buffers_held(module)["num_batches_tracked"]
    return Norms(counters)
