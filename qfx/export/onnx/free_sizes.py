"""Which sizes of the inputs may differ from run to run: those that a user names, or all.

Sizes of several inputs that are equal, in the same dim, are taken as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from qfx.errors import ConfigError
from qfx.graph.meta import TensorInfo

SizePlace: TypeAlias = "tuple[str, int, int]"
"""An input, its tensor among those of the input, and a dim."""

DynamicShapes: TypeAlias = "Mapping[str, Mapping[int, Any] | Sequence[Any] | None]"


@dataclass(frozen=True)
class FreeSize:
    """A size that may differ from run to run.

    Attributes:
        name: of the size in the file.
        places: where it stands.
        example, other: with the example inputs, and in the other run.
    """

    name: str
    places: tuple[SizePlace, ...]
    example: int
    other: int


def candidates(tensors: Mapping[SizePlace, TensorInfo], batch_only: bool) -> Iterator[FreeSize]:
    """Every size of the inputs; those that are equal, in the same dim, as one."""
    groups: dict[tuple[int, int], list[SizePlace]] = {}
    taken: set[str] = set()
    for place, tensor in tensors.items():
        if place[2] == 0 or not batch_only:
            groups.setdefault((place[2], tensor.shape[place[2]]), []).append(place)
    for number, ((dim, size), places) in enumerate(groups.items()):
        name = _name(places[0], tensors[places[0]])
        name = f"{places[0][0]}_{name}" if name in taken else name
        taken.add(name)
        yield FreeSize(name, tuple(places), size, _another(dim, size, number))


def _another(dim: int, size: int, number: int) -> int:
    return size + 1 if dim == 0 else size * (2 + number % 2)


def _name(place: SizePlace, tensor: TensorInfo) -> str:
    name, _, dim = place
    from_end = dim - len(tensor.shape)
    if dim == 0:
        return "batch"
    if tensor.dtype.is_floating_point and len(tensor.shape) == 4 and from_end >= -2:
        return ("height", "width")[from_end]
    return f"{name}_{dim}"


def is_channels(size: FreeSize, tensors: Mapping[SizePlace, TensorInfo]) -> bool:
    """Whether a size is likely to be that of channels, which layers fix."""
    place = size.places[0]
    tensor = tensors[place]
    rank = len(tensor.shape)
    channels = 1 if rank > 2 else rank - 1
    return tensor.dtype.is_floating_point and place[2] == channels and rank > 1


def named(wanted: DynamicShapes, tensors: Mapping[SizePlace, TensorInfo]) -> tuple[FreeSize, ...]:
    """The sizes that a user names."""
    inputs = {place[0] for place in tensors}
    _check_form(wanted, inputs)
    unknown = [name for name in wanted if name not in inputs]
    if unknown:
        raise ConfigError(
            f"dynamic_shapes names {unknown[0]!r}; the inputs are {', '.join(sorted(inputs))}"
        )
    groups: dict[str, list[SizePlace]] = {}
    for name, dims in wanted.items():
        pairs = dims.items() if isinstance(dims, Mapping) else enumerate(dims or ())
        for dim, given in pairs:
            if (name, 0, dim) not in tensors:
                _check_dim(given, name, dim)
                continue
            label = _label(given, name, dim, tensors[name, 0, dim].shape[dim])
            if label is not None:
                groups.setdefault(label, []).append((name, 0, dim))
    return tuple(_group(n, label, tuple(p), tensors) for n, (label, p) in enumerate(groups.items()))


def _check_form(wanted: object, inputs: Iterable[str]) -> None:
    """ConfigError that shows how to write it, if ``wanted`` is no :data:`DynamicShapes`."""
    if isinstance(wanted, Mapping) and all(map(_are_dims, wanted.values())):
        return
    example = {name: {0: "batch"} for name in sorted(inputs)}
    raise ConfigError(
        f"dynamic_shapes is {wanted!r}; it takes a mapping from inputs to dims and their names, as "
        f"in {example}"
    )


def _are_dims(dims: object) -> bool:
    if isinstance(dims, Mapping):
        return all(isinstance(dim, int) for dim in dims)
    return dims is None or isinstance(dims, (tuple, list))


def _check_dim(given: object, name: str, dim: int) -> None:
    if given is not None:
        raise ConfigError(
            f"dynamic_shapes names dim {dim} of {name!r}, which has none of that number"
        )


def _label(given: object, name: str, dim: int, size: int) -> str | None:
    """The name of a size: a string, or what ``torch.export.Dim`` makes; None if it stays fixed."""
    dims = torch.export.Dim
    if given is None or given is dims.STATIC or (type(given) is int and given == size):
        return None
    if given is dims.AUTO or given is dims.DYNAMIC:
        return f"{name}_{dim}"
    label = given if isinstance(given, str) else getattr(given, "__name__", "")
    if isinstance(given, (str, dims)) and label.isidentifier():
        return label
    raise ConfigError(
        f"dynamic_shapes gives {given!r} for dim {dim} of {name!r}; it takes a name as of a "
        f"variable, a torch.export.Dim, or None for the size of the examples, {size}"
    )


def _group(
    number: int, label: str, places: tuple[SizePlace, ...], tensors: Mapping[SizePlace, TensorInfo]
) -> FreeSize:
    sizes = {tensors[place].shape[place[2]] for place in places}
    if len(sizes) > 1:
        raise ConfigError(
            f"dynamic_shapes gives the name {label!r} to sizes that differ: {sorted(sizes)}"
        )
    size = sizes.pop()
    return FreeSize(label, places, size, _another(places[0][2], size, number))
