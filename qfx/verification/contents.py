"""What a pass wrote to the tensors that the graph holds, instead of making new ones.

Autograd counts writes to a tensor, but for those through ``.data``. A pass that is not ours is not
trusted to take no such way: what the graph holds is copied before it, and compared after it.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from qfx.framework.pass_base import Pass
from qfx.graph.lookup import Lookup
from qfx.history.stage import Stage

_OURS = ("qfx", "qfx_passes")


def held_values(module: fx.GraphModule) -> dict[str, object]:
    """The parameters, buffers and constants of ``module``, by name."""
    found: dict[str, object] = dict(module.named_parameters(remove_duplicate=False))
    found.update(module.named_buffers(remove_duplicate=False))
    lookup = Lookup(module)
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    found.update((name, lookup.get(name)) for name in read)
    return found


class Contents:
    """The contents of what ``module`` holds, as they are before ``step``."""

    def __init__(self, module: fx.GraphModule, step: Pass) -> None:
        self._copies: dict[str, tuple[Tensor, Tensor]] = {}
        if type(step).__module__.partition(".")[0] in _OURS:
            return
        for name, value in held_values(module).items():
            if isinstance(value, Tensor) and value.layout is torch.strided:
                self._copies[name] = value, value.detach().clone()

    def written(self) -> list[str]:
        """Names of the tensors that hold something else now."""
        return [
            name
            for name, (tensor, copy) in self._copies.items()
            if not _same(tensor.detach(), copy)
        ]

    def restore(self, names: list[str]) -> None:
        """Give the tensors called ``names`` the contents that they had."""
        for tensor, copy in map(self._copies.__getitem__, names):
            with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                tensor.copy_(copy)


def reader_of(graph: fx.Graph, names: list[str]) -> fx.Node | None:
    """The first operation that reads one of the tensors called ``names``."""
    node: fx.Node
    for node in graph.nodes:
        if node.op == "call_module" and any(n.startswith(f"{node.target}.") for n in names):
            return node
        if any(
            operand.op == "get_attr" and operand.target in names for operand in node.all_input_nodes
        ):
            return node
    return None


def writer_among(stage: Stage) -> str | None:
    """The rule that wrote: the only one that matched, if it was one."""
    matched = [counted.rule for counted in stage.statistics if counted.matches]
    return matched[0].partition("/")[2] if len(matched) == 1 else None


def _same(one: Tensor, other: Tensor) -> bool:
    # NaN differs from itself: then what the graph computes is compared, and tells.
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
