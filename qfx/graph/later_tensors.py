"""Tensors of a graph module that another thread computes, while Python goes on.

Packing a weight takes a kernel a millisecond, in which it does not hold Python's lock. Until it is
done, an empty tensor of its own stands where the packed one is to be. The thread begins with the
first; whoever comes to wait for the last of them computes it, and so on towards the thread.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

import torch
from torch import Tensor, fx

from qfx.graph import meta
from qfx.graph.thread_beside import ThreadBeside
from qfx.private_attributes import buffers_held


class _Ahead(NamedTuple):
    """A tensor that was asked for.

    Attributes:
        stand_in: what stands for it.
        make: what computes it.
        made: that, on the thread.
    """

    stand_in: Tensor
    make: Callable[[], Tensor]
    made: Future[Tensor]

    def tensor(self) -> Tensor:
        """The tensor, computed here if the thread has not begun with it."""
        return self.make() if self.made.cancel() else self.made.result()


class LaterTensors(ThreadBeside):
    """Computes tensors on a thread of its own, in the order in which they are asked for."""

    def __init__(self) -> None:
        super().__init__("qfx-packing")
        self._ahead: dict[int, _Ahead] = {}

    def later(self, make: Callable[[], Tensor]) -> Tensor:
        """What stands for a tensor until :meth:`settle`; itself, where no thread can be started."""
        made = self.begin(make)
        if made is None:
            return make()
        stand_in = torch.empty(0)
        self._ahead[id(stand_in)] = _Ahead(stand_in, make, made)
        return stand_in

    def settle(self, graph_module: fx.GraphModule) -> None:
        """Put the tensors where something stands for them in ``graph_module``.

        Raises:
            Exception: whatever computing one raised.
        """
        awaited = [
            (buffers_held(module), name, f"{path}.{name}".lstrip("."))
            for path, module in graph_module.named_modules()
            for name, held in buffers_held(module).items()
            if id(held) in self._ahead
        ]
        made: dict[str, Tensor] = {}
        for buffers, name, target in reversed(awaited):
            buffers[name] = made[target] = self._ahead[id(buffers[name])].tensor()
        for node in graph_module.graph.nodes:
            if node.op == "get_attr" and node.target in made:
                meta.set_value(node, meta.describe(made[str(node.target)]))
