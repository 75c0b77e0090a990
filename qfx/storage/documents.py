"""JSON documents of a file: each a tensor of bytes, deflated, of a length that the header tells."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from qfx.errors import FormatError
from qfx.storage import limits
from qfx.storage.container import Container, checksum
from qfx.storage.fields import parse_json, render_json

MODEL, HISTORY = "model", "history"
"""What a document tells."""


def tensor_name(document: str) -> str:
    """The name of the tensor that holds a document; no attribute of a model is called so."""
    return f"__qfx_{document}__"


def pack(document: str, content: object) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensor that holds a document, and what the header says of it."""
    text = render_json(content)
    if len(text) > limits.DOCUMENT_BYTES:
        raise FormatError(
            f"the {document} takes {len(text)} bytes as JSON; files hold {limits.DOCUMENT_BYTES}"
        )
    data = torch.frombuffer(bytearray(zlib.compress(text, 6)), dtype=torch.uint8)
    said = {f"{document}.bytes": str(len(text)), f"{document}.crc32": str(checksum(data))}
    return {tensor_name(document): data}, said


def unpack(container: Container, document: str) -> object:
    """What a document says.

    Raises:
        FormatError: it is damaged, or longer than the header tells.
    """
    name, said = tensor_name(document), container.metadata
    if said.get(f"{document}.crc32") != str(container.checksum(name)):
        raise FormatError(f"the {document} is damaged: its checksum is another")
    length = said.get(f"{document}.bytes", "")
    if not (length.isascii() and length.isdigit() and len(length) < limits.DIGITS):
        raise FormatError(f"the header tells no length of the {document}")
    if int(length) > limits.DOCUMENT_BYTES:
        raise FormatError(f"the {document} claims {length} bytes of {limits.DOCUMENT_BYTES}")
    return parse_json(_inflated(container.text(name), int(length), document), f"the {document}")


def _inflated(data: bytes, length: int, document: str) -> bytes:
    if length > limits.INFLATED_ANYWAY + limits.INFLATED * len(data):
        raise FormatError(f"the {document} claims {length} bytes, out of {len(data)} in the file")
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(data, length + 1)
    except zlib.error as error:
        raise FormatError(f"the {document} is damaged: {error}") from None
    if len(text) != length or not inflate.eof or inflate.unused_data:
        raise FormatError(f"the {document} is not of the {length} bytes that the header tells")
    return text
