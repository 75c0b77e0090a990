"""The tensors of a model: gathered under names when it is saved, found by them when it is loaded.

A tensor that two names hold is kept once, and is one tensor again. How a dense tensor lies in
memory (channels_last, transposed) is kept: a float kernel may sum up in another order else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from qfx.errors import FormatError
from qfx.graph.clone import is_opaque
from qfx.storage import container, limits
from qfx.storage.checksums import Checksums
from qfx.storage.container import Container
from qfx.storage.fields import Columns, Fields, Json


@dataclass(frozen=True)
class _Kept:
    name: str
    original: Tensor
    stored: Tensor
    order: tuple[int, ...]


@dataclass
class TensorStore:
    """What a file will hold.

    Attributes:
        stored: contiguous tensors on the CPU, by name.
        prefix: what the names of tensors start with from now on, those of a region.
    """

    stored: dict[str, Tensor] = field(default_factory=dict)
    prefix: str = ""
    _kept: dict[tuple[object, ...], _Kept] = field(default_factory=dict)

    def keep(self, tensor: Tensor, hint: str) -> str:
        """Keep a tensor under a name like ``hint``; the name of one that is here already.

        Raises:
            FormatError: a file can't hold it.
        """
        _check(tensor, hint)
        data = tensor.detach()
        key = (data.data_ptr(), data.dtype, tuple(data.shape), data.stride(), data.device)
        known = self._kept.get(key) if data.numel() else None
        if known is not None:
            return known.name
        name = start = self.prefix + hint
        tries = 0
        while name in self.stored:
            tries += 1
            name = f"{start}_{tries}"
        stored = data.cpu().contiguous().resolve_conj().resolve_neg()
        self.stored[name] = stored
        self._kept[key if data.numel() else (name,)] = _Kept(name, data, stored, _order(data))
        return name

    def describe(self) -> dict[str, Json]:
        """What there is to say of each tensor besides dtype and shape."""
        found: dict[str, Json] = {}
        for kept in self._kept.values():
            said: dict[str, Json] = {"crc32": container.checksum(kept.stored)}
            if kept.order:
                said["order"] = list(kept.order)
            found[kept.name] = said
        return found

    def overlapping(self, name: str) -> str:
        """Another tensor that lies in the memory of one, in part; "" if there is none."""
        kept = {each.name: each.original for each in self._kept.values()}
        mine = _span(kept[name])
        others = ((other, _span(t)) for other, t in kept.items() if other != name)
        return next((o for o, span in others if span[0] < mine[1] and mine[0] < span[1]), "")


def _check(tensor: Tensor, hint: str) -> None:
    kind = type(tensor)
    if kind not in (Tensor, nn.Parameter, nn.Buffer):
        raise FormatError(f"{hint!r} is a {kind.__name__}; files hold plain tensors")
    if tensor.layout != torch.strided or is_opaque(tensor) or tensor.device.type == "meta":
        raise FormatError(f"{hint!r} is no dense tensor with values; files hold no others")
    if container.dtype_name(tensor.dtype) is None:
        raise FormatError(f"{hint!r} is of {tensor.dtype}, which files have no name for")


def _order(tensor: Tensor) -> tuple[int, ...]:
    """The dims from outermost to innermost, () where they are in order."""
    if tensor.is_contiguous() or tensor.numel() < 2:
        return ()
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda d: (-strides[d], d))
    return tuple(order) if tensor.permute(order).is_contiguous() else ()


def _span(tensor: Tensor) -> tuple[int, int]:
    """The addresses from the first byte of a tensor to behind its last."""
    if not tensor.numel():
        return 0, 0
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size()


_DESCRIBED = Columns(crc32=int, order=[])


@dataclass
class TensorSource:
    """What a file holds; each tensor is checked, and made once.

    Args:
        container: the file.
        described: what the model says of each.
        checksums: computes those to compare, for which all bytes are read; None compares none.

    Attributes:
        parameters: those that were made of tensors of the file; one with two names is one.
    """

    container: Container
    described: dict[str, tuple[int, tuple[int, ...]]]
    checksums: Checksums | None
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    _made: dict[str, Tensor] = field(default_factory=dict)
    _packed: int = 0

    def takes(self, packed: int) -> bool:
        """Whether the layers of the file may take so many bytes more when they are packed."""
        self._packed += packed
        return self._packed <= limits.PACKED_ANYWAY + limits.PACKED * self.container.size

    def is_made(self, name: str) -> bool:
        """Whether the tensor of a name was found before."""
        return name in self._made

    @classmethod
    def read(
        cls, container: Container, fields: Fields, checksums: Checksums | None
    ) -> TensorSource:
        """What ``fields`` say of the tensors of ``container``."""
        described = {}
        for name in fields.names():
            record = fields.record(name)
            crc, order = record.columns(_DESCRIBED)
            if not 0 <= crc <= 0xFFFFFFFF:
                record.refuse("crc32", f"{crc} is no checksum of 32 bits")
            dims = len(container.entries[name].shape) if name in container.entries else 0
            ordered = all(type(dim) is int for dim in order) and sorted(order) == [*range(dims)]
            if order and not ordered:
                record.refuse("order", "is no order of the dims")
            described[name] = (crc, tuple(order))
        if checksums is not None:
            checksums.start(container, described)
        return cls(container, described, checksums)

    def find(self, name: str) -> Tensor:
        """The tensor of a name; FormatError if there is none, or it is damaged."""
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Tensor:
        if name not in self.described:
            raise FormatError(f"the model reads a tensor {name[:200]!r}, which the file has not")
        crc, order = self.described[name]
        if self.checksums is not None and self.checksums.of(self.container, name) != crc:
            raise FormatError(f"tensor {name!r} is damaged: its checksum is another")
        tensor = self.container.tensor(name)
        if not order:
            return tensor
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return tensor.permute(order).contiguous().permute(inverse)


def give_values(name: str, own: Tensor, values: Tensor) -> None:
    """Copy values of a file into a tensor of a module that was handed in.

    Raises:
        FormatError: the tensor has no memory.
    """
    if own.is_meta:
        raise FormatError(
            f"{name!r} of what was handed in has no memory: it is on the meta device. What to do: "
            "hand in module.to_empty(device='cpu'); its values come from the file"
        )
    with torch.no_grad():
        own.copy_(values)
