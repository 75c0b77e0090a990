"""Opens a file: its container, then all that it says, checked before anything is made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from qfx.errors import FormatError
from qfx.history.history import History
from qfx.history.stage import Stage
from qfx.storage.checksums import Checksums
from qfx.storage.container import Container
from qfx.storage.documents import HISTORY, MODEL, tensor_name, unpack
from qfx.storage.fields import Fields
from qfx.storage.histories import StoredHistory, UnkeptHistory, read_history
from qfx.storage.prepared_records import PreparedRecord, read_prepared
from qfx.storage.quantized import QuantizedRecord, read_quantized
from qfx.storage.regions import FEATURE as REGIONS
from qfx.storage.regions import RegionsRecord, read_regions
from qfx.storage.targets import Types
from qfx.storage.tensors import TensorSource

FORMAT = "qfx"
VERSION = (1, 0)
"""Major and minor; docs/format.md says what each promises."""

FEATURES = frozenset((REGIONS,))
"""What a reader may have to know to read a file rightly, beside what every file has."""


_READERS: Mapping[str, Callable[[Fields, Types, TensorSource], Any]] = {
    "quantized": read_quantized,
    "prepared": read_prepared,
    "regions": read_regions,
}


@dataclass(frozen=True)
class Opened:
    """A file whose every record was checked.

    Attributes:
        record: what it holds.
        source: its tensors.
        histories: that of the model, under "", or those of its regions.
        compiled: how it was compiled, for the room that compiles; None if it was not.
    """

    record: QuantizedRecord | PreparedRecord | RegionsRecord
    source: TensorSource
    histories: Mapping[str, History]
    compiled: Fields | None


def open_buffer(buffer: Any, types: Types, checksums: Checksums | None) -> Opened:
    """Check all that a file says, and make nothing of it yet."""
    container = Container(buffer)
    lenient = _check_version(container.metadata)
    fields = Fields(unpack(container, MODEL), "the model", lenient=lenient)
    unknown = set(fields.texts("features", 1000)) - FEATURES
    if unknown:
        raise FormatError(
            f"the file uses {min(unknown)[:80]!r}, which this qfx does not know; it was written by "
            f"qfx {fields.text('qfx')[:40]}, which can read it"
        )
    fields.text("qfx"), fields.text("torch")
    kind = fields.choice("kind", _READERS)
    source = TensorSource.read(container, fields.record("tensors"), checksums)
    record = _READERS[kind](fields.record("model"), types, source)
    compiled = fields.record("compiled") if fields.has("compiled") else None
    if compiled is not None and not _is_quantized(record):
        fields.refuse("compiled", "is no quantized model's")
    fields.close()
    return Opened(record, source, _histories(container, record, lenient=lenient), compiled)


def _is_quantized(record: QuantizedRecord | PreparedRecord | RegionsRecord) -> bool:
    if isinstance(record, RegionsRecord):
        return isinstance(record.regions[0].model, QuantizedRecord)
    return isinstance(record, QuantizedRecord)


def _histories(
    container: Container,
    record: QuantizedRecord | PreparedRecord | RegionsRecord,
    *,
    lenient: bool,
) -> Mapping[str, History]:
    """The histories, if the file has any; those of quantized models are read when looked at."""
    parts: Mapping[str, QuantizedRecord | PreparedRecord]
    if isinstance(record, RegionsRecord):
        parts = {region.name: region.model for region in record.regions}
    else:
        parts = {"": record}
    if tensor_name(HISTORY) not in container.entries:
        return {name: UnkeptHistory(region=name) for name in parts}

    @cache
    def document() -> Fields:
        return Fields(unpack(container, HISTORY), "the history", lenient=lenient)

    def history_of(name: str) -> History:
        def read() -> list[Stage]:
            return read_history(document().record(name) if name else document())

        is_quantized = isinstance(parts[name], QuantizedRecord)
        return StoredHistory(read) if is_quantized else History(read())

    return {name: history_of(name) for name in parts}


def _check_version(metadata: Mapping[str, str]) -> bool:
    """Whether a newer minor version wrote the file, whose additions are passed over."""
    if metadata.get("format") != FORMAT:
        raise FormatError("no file of qfx.save: it is another safetensors file")
    major, _, minor = metadata.get("version", "").partition(".")
    if not (major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit()):
        raise FormatError("it has no version of the format")
    if len(major) > 4 or len(minor) > 4 or int(major) != VERSION[0]:
        raise FormatError(
            f"it has version {major[:20]}.{minor[:20]} of the format, and this qfx reads "
            f"{VERSION[0]}.x; upgrade qfx, or save the model anew with this one"
        )
    return int(minor) > VERSION[1]
