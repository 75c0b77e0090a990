"""The container: a safetensors file, read and written with every check that its format has.

    8 bytes, little-endian: n  |  n bytes of JSON: name -> dtype, shape, [begin, end)  |  tensors

Tensors fill the rest of the file without overlap or hole. Those whose size is a multiple of 64
bytes come first, so that they lie where kernels want them and can be used where the file is mapped;
the few others are copied, since what a float kernel sums up first may depend on where rows begin.
"""

from __future__ import annotations

import os
import stat
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from qfx.errors import FormatError
from qfx.graph.tensor_bytes import bytes_of
from qfx.storage import limits
from qfx.storage.fields import Columns, Fields, parse_json, render_json, sizes

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""The dtypes of a file by the names that safetensors has for them."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_METADATA = "__metadata__"
_LENGTH = 8
_ALIGNED = 64
_MOST_OF_NAME = 100  # characters of a name that another is made of


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies.

    Attributes:
        dtype: its name in the file.
        shape: its sizes.
        begin, end: its bytes, counted from the start of the file.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Container:
    """A file that was checked, over a buffer of its bytes.

    Args:
        buffer: writable; tensors live in it. A private mapping of a file, or a bytearray.

    Attributes:
        size: bytes of the file.
        metadata: text by name.
        entries: where each tensor lies, by name.

    Raises:
        FormatError: it is no such file, or is damaged.
    """

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer
        self.size = size = len(buffer)
        _check_start(bytes(buffer[: _LENGTH + 1]), size)
        self._address = torch.frombuffer(buffer, dtype=torch.uint8, count=1).data_ptr()
        length = int.from_bytes(buffer[:_LENGTH], "little")
        header = parse_json(bytes(buffer[_LENGTH : _LENGTH + length]), "the header")
        fields = Fields(header, "the header")
        self.metadata = _metadata(fields)
        names = [name for name in fields.names() if name != _METADATA]
        if len(names) > limits.TENSORS:
            raise FormatError(f"the header lists {len(names)} tensors; {limits.TENSORS} are taken")
        start = _LENGTH + length
        self.entries = {name: _entry(fields.record(name), start, size) for name in names}
        _check_cover(self.entries, start, size)

    def checksum(self, name: str) -> int:
        """CRC-32 of dtype, shape and bytes of a tensor."""
        entry = self._entry(name)
        with memoryview(self._buffer) as view, view[entry.begin : entry.end] as part:
            return _checksum(entry.dtype, entry.shape, part)

    def text(self, name: str) -> bytes:
        """The bytes of a tensor that holds text."""
        entry = self._entry(name)
        if entry.dtype != "U8" or len(entry.shape) != 1:
            raise FormatError(f"{name!r} holds {entry.dtype} of shape {entry.shape}, not text")
        if entry.end - entry.begin > limits.DOCUMENT_BYTES:
            raise FormatError(f"{name!r} is longer than {limits.DOCUMENT_BYTES} bytes")
        return bytes(self._buffer[entry.begin : entry.end])

    def tensor(self, name: str) -> Tensor:
        """A tensor in the memory of the buffer, or a copy where that is not aligned."""
        entry = self._entry(name)
        dtype, count = DTYPES[entry.dtype], prod(entry.shape)
        if not count:
            return torch.empty(entry.shape, dtype=dtype)
        is_aligned = not (self._address + entry.begin) % _ALIGNED
        if is_aligned and dtype != torch.bool:
            there = torch.frombuffer(self._buffer, dtype=dtype, count=count, offset=entry.begin)
            return there.view(entry.shape)
        size = entry.end - entry.begin
        raw = torch.frombuffer(self._buffer, dtype=torch.uint8, count=size, offset=entry.begin)
        if dtype == torch.bool and bool((raw > 1).any()):
            raise FormatError(f"tensor {name!r} holds bytes that are neither true nor false")
        return (raw if is_aligned else raw.clone()).view(dtype).view(entry.shape)

    def _entry(self, name: str) -> TensorEntry:
        if name not in self.entries:
            raise FormatError(f"the file has no tensor {name!r}, which its model reads")
        return self.entries[name]


def _check_start(start: bytes, size: int) -> None:
    """FormatError unless a file may be what its first bytes say."""
    if start.startswith(b"PK"):
        raise FormatError(
            "no file of qfx.save: it looks like a torch.save file (a zip); use torch.load, or "
            "torch.export.load for a .pt2"
        )
    if size <= _LENGTH:
        raise FormatError(f"no file of qfx.save, or cut off: it has {size} bytes")
    if start[_LENGTH:] != b"{":
        raise FormatError("no file of qfx.save: it does not start as one")
    length = int.from_bytes(start[:_LENGTH], "little")
    if length > limits.HEADER_BYTES:
        raise FormatError(f"no file of qfx.save: the header claims {length} bytes")
    if length > size - _LENGTH:
        raise FormatError(
            f"the file is cut off: the header claims {length} bytes and the file has {size}"
        )


def _metadata(fields: Fields) -> dict[str, str]:
    if _METADATA not in fields.names():
        return {}
    held = fields.record(_METADATA)
    return {name: held.text(name) for name in held.names()}


_ENTRY = Columns(dtype=str, shape=list, data_offsets=list)


def _entry(fields: Fields, start: int, size: int) -> TensorEntry:
    dtype, shape, offsets = fields.columns(_ENTRY)
    fields.chosen("dtype", dtype, DTYPES)
    shape = sizes(shape, fields.place)
    if [type(offset) for offset in offsets] != [int, int] or not 0 <= offsets[0] <= offsets[1]:
        raise FormatError(f"{fields.place}: {offsets} are no offsets")
    begin, end = start + offsets[0], start + offsets[1]
    if end > size:
        raise FormatError(
            f"the file is cut off: it has {size} bytes, and {fields.place} ends at {end}"
        )
    if prod(shape) * DTYPES[dtype].itemsize != end - begin:
        raise FormatError(f"{fields.place}: {dtype} of shape {shape} has no {end - begin} bytes")
    return TensorEntry(dtype, shape, begin, end)


def _check_cover(entries: Mapping[str, TensorEntry], start: int, size: int) -> None:
    at = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            what = "overlaps another tensor" if entry.begin < at else "leaves a hole before it"
            raise FormatError(f"tensor {name!r} {what}")
        at = entry.end
    if at != size:
        raise FormatError(f"the file has {size - at} bytes that belong to no tensor")


# -- writing -------------------------------------------------------------------------------------
def dtype_name(dtype: torch.dtype) -> str | None:
    """What a file calls a dtype; None if it has no name for it."""
    return _NAMES.get(dtype)


def checksum(tensor: Tensor) -> int:
    """CRC-32 of dtype, shape and bytes; ``tensor`` is contiguous and on the CPU."""
    with bytes_of(tensor) as view:
        return _checksum(_NAMES[tensor.dtype], tuple(tensor.shape), view)


def _checksum(dtype: str, shape: tuple[int, ...], data: memoryview) -> int:
    head = zlib.crc32(f"{dtype}{list(shape)}".encode())
    return zlib.crc32(data, head)


def write_container(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors, contiguous and on the CPU, and metadata to ``path``.

    The file comes into being under another name: whoever reads ``path`` meanwhile, or has it
    mapped, keeps what was there before.
    """
    with replacing(path) as file:
        for part in container_parts(tensors, metadata):
            file.write(part)


def container_parts(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """The bytes of a container, in order; each part is valid until the next."""
    ordered = sorted(tensors.items(), key=_place)
    header: dict[str, object] = {_METADATA: dict(metadata)}
    at = 0
    for name, tensor in ordered:
        end = at + tensor.numel() * tensor.element_size()
        kind, shape = _NAMES[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = render_json(header)
    text += b" " * (-(len(text) + _LENGTH) % _ALIGNED)
    yield len(text).to_bytes(_LENGTH, "little")
    yield text
    for _, tensor in ordered:
        with bytes_of(tensor) as view:
            yield view


def _place(item: tuple[str, Tensor]) -> tuple[bool, int, str]:
    name, tensor = item
    size = tensor.numel() * tensor.element_size()
    return bool(size % _ALIGNED), -tensor.element_size(), name


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside ``path`` that takes its place, and its permissions, once it is whole.

    A link stays: it is what it leads to that is replaced.
    """
    target = Path(os.path.realpath(path))
    name = target.with_name(f".{target.name[:_MOST_OF_NAME]}.{uuid.uuid4().hex}")
    # Made with the permissions that the umask leaves; to ask for it would be to change it.
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:  # of the file that was asked for, as far as users are concerned
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            with suppress(FileNotFoundError):
                os.chmod(name, stat.S_IMODE(os.stat(target).st_mode) & 0o777)
            yield file
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
