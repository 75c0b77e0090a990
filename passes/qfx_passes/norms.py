"""Batch-norm modules of a graph that is to be trained: kept aside while they are operations.

Passes see inference: a batch-norm is an operation on its parameters and statistics. In training it
is the user's own module, with its momentum, its counter and its class, under its own name.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx, nn

from qfx.graph.source import torch_class


@dataclass(frozen=True)
class _Kept:
    """What passes may drop of a module: its class, its counter, and what it leaves out."""

    kind: type[nn.Module]
    counter: Tensor | None
    without: tuple[str, ...]


class Norms:
    """The batch-norm modules of a graph, by path."""

    def __init__(self, kept: dict[str, _Kept]) -> None:
        self._kept = kept

    def holds(self, statistic: fx.Node) -> bool:
        """Whether a statistic that is read is that of a module which can be restored."""
        return str(statistic.target).rpartition(".")[0] in self._kept

    def restore(self, root: nn.Module, path: str) -> bool:
        """Make what is left at ``path`` the module again that it was; False if it was none."""
        if path not in self._kept:
            return False
        module, kept = root.get_submodule(path), self._kept[path]
        if type(module) is not kept.kind:
            module.__class__ = kept.kind
            module.register_buffer("num_batches_tracked", kept.counter)
            for name in kept.without:
                module.register_parameter(name, None)
        return True


def norms_of(graph: fx.Graph) -> Norms:
    """The batch-norm modules that ``graph`` calls."""
    root, kept = graph.owning_module, {}
    assert root is not None
    for node in graph.nodes:
        if node.op != "call_module":
            continue
        module = root.get_submodule(str(node.target))
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and torch_class(module) is not None:
            without = tuple(n for n in ("weight", "bias") if getattr(module, n) is None)
            kept[str(node.target)] = _Kept(type(module), module.num_batches_tracked, without)
    return Norms(kept)
