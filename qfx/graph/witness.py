"""What an operation does while the example inputs run through it: seen at the dispatcher.

Every function of torch, however it is made of others, ends in operations whose schemas say what
they write to, and whose tags say that they draw random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from qfx.graph.effects import is_random_operation


class Witness(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, sees what is drawn, and what is written to the memory of ``operands``.

    Attributes:
        drew: whether random numbers were drawn.
        wrote: whether memory of the operands was written to.
    """

    def __init__(self, operands: Any = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.drew = self.wrote = False
        self._tensors = [t for t in pytree.tree_leaves(operands) if isinstance(t, torch.Tensor)]
        self._versions = self._counters()
        self._memory = {address for t in self._tensors for address in _address(t)}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler to keep it away, while capture patches torch."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        self.drew = self.drew or is_random_operation(func)
        if func._schema.is_mutable and not self.wrote:
            written = pytree.tree_leaves(list(_written(func, args, named)))
            addresses = (a for t in written if isinstance(t, torch.Tensor) for a in _address(t))
            self.wrote = not self._memory.isdisjoint(addresses)
        return func(*args, **named)

    def settle(self) -> None:
        """Take what changed without saying so, as running statistics do, for written, too."""
        self.wrote = self.wrote or self._counters() != self._versions

    def _counters(self) -> list[int]:
        return [0 if tensor.is_inference() else tensor._version for tensor in self._tensors]


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        if argument.name in kwargs:
            yield kwargs[argument.name]
        elif position < len(args):
            yield args[position]


def _address(tensor: torch.Tensor) -> tuple[int, ...]:
    if tensor.layout is not torch.strided or tensor.device.type == "meta":
        return ()
    address = tensor.untyped_storage().data_ptr()
    return (address,) if address else ()
