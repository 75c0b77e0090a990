"""Where a value of a traced model comes from, and what was written to its memory since.

What a value depends on decides what Python may do with it. Nothing: it is a constant. Ranks: they
are guarded once, for all inputs. Sizes, dtypes, numbers among the arguments: a decision is guarded.
The contents of inputs, or chance: no decision can be captured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a value depends on.

    Attributes:
        inputs: the inputs, in whichever way; what does not is a constant.
        data: the contents of inputs, or chance.
        sizes: of a number, more than ranks; of a container, whether its length does; of a tensor,
            whether its rank does.
        layout: of a number, how tensors lie in memory.
    """

    inputs: bool = False
    data: bool = False
    sizes: bool = False
    layout: bool = False


@dataclass(eq=False, slots=True)
class LaterWrites:
    """What was written to a piece of memory after it was made, known to all that look into it."""

    inputs: bool = False
    data: bool = False


@dataclass(frozen=True, slots=True)
class TracedMemory:
    """The memory behind the tensors of a value, by address."""

    pieces: dict[int, LaterWrites] = field(default_factory=dict)

    def overlaps(self, other: TracedMemory) -> bool:
        return not self.pieces.keys().isdisjoint(other.pieces)

    @property
    def depends_on_inputs(self) -> bool:
        """Whether something was written to it that depends on inputs."""
        return any(each.inputs for each in self.pieces.values())

    @property
    def depends_on_data(self) -> bool:
        """Whether something was written to it that depends on the contents of inputs."""
        return any(each.data for each in self.pieces.values())

    def write(self, *, inputs: bool, data: bool) -> None:
        """Remember what was written to it."""
        for each in self.pieces.values():
            each.inputs |= inputs
            each.data |= data


def memory_of(value: object, known: Iterable[TracedMemory]) -> TracedMemory:
    """The memory behind the tensors in ``value``, pieces of which may be known already."""
    sources = list(known)
    return TracedMemory({address: _piece(address, sources) for address in _addresses(value)})


def _piece(address: int, known: Iterable[TracedMemory]) -> LaterWrites:
    return next((m.pieces[address] for m in known if address in m.pieces), None) or LaterWrites()


def _addresses(value: object) -> Iterator[int]:
    for tensor in tensors_in(value):
        if tensor.layout is torch.strided and (address := tensor.untyped_storage().data_ptr()):
            yield address


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """The tensors in a nest of tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        for item in value:
            yield from tensors_in(item)


def is_plain(value: object) -> bool:
    """Whether ``value`` is a number, a text, a dtype, a device, or a nest of them."""
    if isinstance(value, (tuple, list)):
        return all(map(is_plain, value))
    return isinstance(value, (int, float, complex, str, type(None), torch.dtype, torch.device))
