"""Batches of calibration that are kept, for passes that measure what they do."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from qfx.capture.arguments import copy_tensors
from qfx.torch_private import pytree

MOST = 8
MOST_BYTES = 2**23


class Sample(NamedTuple):
    """What a graph was called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Room(NamedTuple):
    """How many batches are kept at most, and bytes of these."""

    batches: int = MOST
    size: int = MOST_BYTES


class Progress(NamedTuple):
    """Whether what takes long shows how far it is; None: on a terminal."""

    shown: bool | None

    @property
    def is_shown(self) -> bool:
        """Whether that is so here and now."""
        return sys.stderr.isatty() if self.shown is None else self.shown


class Samples:
    """The first batches that ran through a prepared model while it recorded: few, and small.

    They are kept as copies, as far as there is room.
    """

    def __init__(self, room: Room = Room()) -> None:  # noqa: B008  (it is a constant)
        self.room = room
        self.divisible = True
        """Whether the model may take some rows of a batch; it is asked once."""
        self._kept: list[Sample] = []
        self._bytes = 0

    @property
    def full(self) -> bool:
        """Whether no further batch is kept, however small."""
        return len(self._kept) >= self.room.batches

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Sample]:
        """Each batch, as copies that a model may write to."""
        for args, kwargs in self._kept:
            yield Sample(copy_tensors(args), copy_tensors(kwargs))

    @torch.no_grad()
    def offer(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bool:
        """Keep a batch if there is room, and say whether there was."""
        size = _size(_tensors(args, kwargs))
        if self.full or self._bytes + size > self.room.size:
            return False
        self._bytes += size
        self._kept.append(Sample(copy_tensors(args), copy_tensors(dict(kwargs))))
        return True

    def first_rows(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Sample | None:
        """The first rows of a batch that there is room for; None if it is no batch of rows."""
        tensors = [x for x in _tensors(args, kwargs) if x.dim() > 0]
        if len({len(x) for x in tensors}) != 1 or any(x.layout != torch.strided for x in tensors):
            return None
        rows = (self.room.size - self._bytes) * len(tensors[0]) // max(_size(tensors), 1)
        if rows < 1:
            return None
        return Sample(
            *pytree.tree_map_only(
                Tensor, lambda x: x[:rows] if x.dim() > 0 else x, (args, dict(kwargs))
            )
        )

    def state(self, like: Sample) -> dict[str, Tensor]:
        """Tensors and numbers of all batches that are built as ``like``, by batch and place.

        Others than these could not be built again.
        """
        flat = ((i, _leaves_of(each, like)) for i, each in enumerate(self._kept))
        return {
            f"{i}.{place}": leaf if isinstance(leaf, Tensor) else _as_tensor(leaf)
            for i, leaves in flat
            for place, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor) or _is_number(leaf)
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], like: Sample, room: Room) -> Samples:
        """What :meth:`state` wrote, of batches that are built as ``like``."""
        made, (leaves, form) = cls(room), pytree.tree_flatten(tuple(like))
        batches: dict[int, dict[int, Tensor]] = defaultdict(dict)
        for name, tensor in state.items():
            number, _, place = name.partition(".")
            batches[int(number)][int(place)] = tensor
        for _, found in sorted(batches.items()):
            if max(found) < len(leaves):  # else it is of another model
                args, kwargs = pytree.tree_unflatten(
                    [_like(found.get(place, leaf), leaf) for place, leaf in enumerate(leaves)],
                    form,
                )
                made.offer(args, kwargs)
        return made

    def to(self, device: str | None) -> Samples:
        """The same batches, on ``device``; None leaves them where they are."""
        moved = Samples(self.room)
        moved._kept = [
            Sample(*pytree.tree_map_only(Tensor, lambda x: x.to(device), tuple(each)))
            for each in self._kept
        ]
        moved._bytes = self._bytes
        return moved


def first_of(samples: Iterable[Sample], size: int) -> Iterator[Sample]:
    """The first batches, one at least, until they hold so many bytes."""
    held = 0
    for sample in samples:
        yield sample
        held += _size(_tensors(*sample))
        if held >= size:
            return


def _tensors(args: tuple[object, ...], kwargs: Mapping[str, object]) -> list[Tensor]:
    return [x for x in pytree.tree_leaves((args, dict(kwargs))) if isinstance(x, Tensor)]


def _size(tensors: Iterable[Tensor]) -> int:
    """Bytes; sparse tensors have no nbytes."""
    return sum(x.numel() * x.element_size() for x in tensors)


def _leaves_of(sample: Sample, like: Sample) -> list[Any]:
    """The leaves of ``sample``; none if more than its tensors and numbers are its own."""
    leaves, form = pytree.tree_flatten(tuple(sample))
    wanted, known = pytree.tree_flatten(tuple(like))
    if form != known or not all(map(_is_alike, leaves, wanted)):
        return []
    return leaves


def _is_alike(leaf: object, wanted: object) -> bool:
    if isinstance(leaf, Tensor):
        return wanted is None or isinstance(wanted, Tensor)
    if _is_number(leaf):
        return type(leaf) is type(wanted)
    return not isinstance(wanted, Tensor) and leaf == wanted


def _is_number(leaf: object) -> TypeGuard[int | float]:
    return type(leaf) in (int, float)


def _as_tensor(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.int64 if type(number) is int else torch.float64)


def _like(found: object, wanted: object) -> object:
    """What was written, as a number where it was one."""
    if isinstance(found, Tensor) and _is_number(wanted):
        return type(wanted)(found.item())
    return found
