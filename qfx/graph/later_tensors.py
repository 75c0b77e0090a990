"""Tensors of a graph module that another thread computes, while Python goes on.

Packing a weight takes a kernel a millisecond, in which it does not hold Python's lock. Until it is
done, an empty tensor of its own stands where the packed one is to be. The thread begins with the
first; whoever comes to wait for the last of them computes it, and so on towards the thread.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor, fx
from typing_extensions import Self

from qfx.graph import meta
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


class LaterTensors:
    """Computes tensors on a thread of its own, in the order in which they are asked for.

    It is left with ``with``: what nobody waits for by then is not computed.
    """

    def __init__(self) -> None:
        # Who asks for the number of threads has OpenMP use as many as were set for the process.
        self._pool = ThreadPoolExecutor(1, "qfx-packing", initializer=torch.get_num_threads)
        self._ahead: dict[int, _Ahead] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def later(self, make: Callable[[], Tensor]) -> Tensor:
        """What stands for a tensor until :meth:`settle`; itself, where no thread can be started."""
        try:
            made = self._pool.submit(make)
        except RuntimeError:  # of the system, or of Python that is about to end
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
