"""A model as one file, and back (:mod:`qfx.keeping` is what users call).

    container -> checked records -> graph and tensors -> lowering -> model

Nothing of a file is imported, executed or unpickled. What it describes is checked whole before
anything is made of it; docs/format.md has every field.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeAlias

import torch
from torch import nn

from qfx.backends.base import Backend
from qfx.caller_modes import on_cpu, undisturbed
from qfx.errors import BackendError, ConfigError, FormatError
from qfx.garbage_collection import patiently
from qfx.history.history import History
from qfx.history.stage import Stage
from qfx.runtime.prepared import PreparedModel
from qfx.runtime.quantized import QuantizedModel
from qfx.runtime.regions import regions_of
from qfx.storage.attributes import ModuleRecord, lacking
from qfx.storage.container import Container, write_container
from qfx.storage.documents import HISTORY, MODEL, pack, tensor_name, unpack
from qfx.storage.fields import Fields, Json
from qfx.storage.histories import StoredHistory, UnkeptHistory, read_history, write_history
from qfx.storage.paths import check_target, read_buffer
from qfx.storage.prepared import build_prepared, write_prepared
from qfx.storage.prepared_records import PreparedRecord, read_prepared
from qfx.storage.quantized import QuantizedRecord, build_quantized, read_quantized, write_quantized
from qfx.storage.targets import Types
from qfx.storage.tensors import TensorSource, TensorStore
from qfx.training.schedule import QATSchedule

FORMAT = "qfx"
VERSION = (1, 0)
"""Major and minor; docs/format.md says what each promises."""

FEATURES: frozenset[str] = frozenset()
"""What a reader must know beyond version 1.0 to read a file rightly; nothing so far."""


Describe: TypeAlias = Callable[[TensorStore], Json]
"""Says something as JSON, and keeps tensors."""


# -- save ----------------------------------------------------------------------------------------
@undisturbed()
@on_cpu()
@patiently
def write(
    model: QuantizedModel | PreparedModel,
    path: str | os.PathLike[str],
    *,
    history: bool,
    schedule: QATSchedule | None,
    compiled: Describe | None,
) -> Path:
    """:func:`qfx.save`; ``compiled`` says how a quantized model was compiled."""
    if regions_of(model) is not None:
        raise ConfigError(
            "a model of several regions can't be kept in one file yet: save each of model.regions, "
            "and put what qfx.load makes of them in the places of these modules of the float model"
        )
    if not isinstance(model, (QuantizedModel, PreparedModel)):
        raise ConfigError(
            f"save takes a quantized or prepared model, not a {type(model).__name__}; of other "
            "modules keep the state_dict()"
        )
    if schedule is not None and not schedule.trains(model):
        raise ConfigError("schedule is that of another model; give the one made of this model")
    if history and isinstance(model.history, UnkeptHistory):
        raise ConfigError(
            f"the model comes from a file and has no history: {UnkeptHistory.missing}"
        )
    target = Path(path)
    check_target(target)
    store = TensorStore()
    if isinstance(model, QuantizedModel):
        kind, described = "quantized", write_quantized(model, store)
    else:
        kind, described = "prepared", write_prepared(model, store, schedule)
    document: dict[str, Json] = {
        "kind": kind,
        "qfx": _own_version(),
        "torch": str(torch.__version__),
        "features": [],
        "model": described,
    }
    if compiled is not None:
        document["compiled"] = compiled(store)
    document["tensors"] = store.describe()
    held, said = pack(MODEL, document)
    if history or isinstance(model, PreparedModel):
        stages, said_of_stages = pack(HISTORY, write_history(model.history))
        held, said = held | stages, said | said_of_stages
    metadata = {"format": FORMAT, "version": ".".join(map(str, VERSION)), **said}
    write_container(target, {**store.stored, **held}, metadata)
    return target


def _own_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("qfx")
    except PackageNotFoundError:  # a checkout that was never installed
        return "unknown"


# -- load ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Opened:
    """A file whose every record was checked.

    Attributes:
        record: the model.
        source: its tensors.
        history: how it came about.
        compiled: how it was compiled, for the room that compiles; None if it was not.
    """

    record: QuantizedRecord | PreparedRecord
    source: TensorSource
    history: History
    compiled: Fields | None


@dataclass(frozen=True)
class Loaded:
    """A model, and the file that it is from."""

    model: QuantizedModel | PreparedModel
    file: Opened


@undisturbed()
@on_cpu()
@patiently
def read(
    path: str | os.PathLike[str],
    *,
    backend: str | Backend | None,
    modules: Mapping[str, nn.Module] | None,
    model: nn.Module | None,
    types: Iterable[type],
    verify: bool,
    mmap: bool,
) -> Loaded:
    """:func:`qfx.load`, and what else the file says."""
    given = _given(modules, model)
    if backend is not None and not isinstance(backend, (str, Backend)):
        raise ConfigError(f"backend is {backend!r}; give a name, a qfx.Backend or None")
    kinds = Types.of(types)
    buffer = read_buffer(path, mapped=mmap)
    try:
        return _loaded(buffer, backend, given, kinds, verify=verify)
    except FormatError as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from error.__cause__


def _given(
    modules: Mapping[str, nn.Module] | None, model: nn.Module | None
) -> dict[str, nn.Module]:
    if not isinstance(model, (nn.Module, NoneType)):
        raise ConfigError(
            f"model is {type(model).__name__}, not an nn.Module: give the float model"
        )
    if not isinstance(modules, (Mapping, NoneType)):
        kind = type(modules).__name__
        raise ConfigError(f"modules is {kind}; give a dict: path in the model -> the module")
    found = dict(model.named_modules()) if model is not None else {}
    for name, module in (modules or {}).items():
        if not isinstance(module, nn.Module):
            raise ConfigError(f"modules[{name!r}] is {type(module).__name__}, not an nn.Module")
        found[name] = module
    return found


def load_buffer(
    buffer: Any,
    backend: str | Backend | None = None,
    given: Mapping[str, nn.Module] | None = None,
    types: Types | None = None,
    *,
    verify: bool = True,
) -> QuantizedModel | PreparedModel:
    """The model in the bytes of a file, which must be writable and belong to nobody else."""
    return _loaded(buffer, backend, given or {}, types or Types({}), verify=verify).model


def _loaded(
    buffer: Any,
    backend: str | Backend | None,
    given: Mapping[str, nn.Module],
    types: Types,
    *,
    verify: bool,
) -> Loaded:
    opened = open_buffer(buffer, types, verify=verify)
    missing = lacking(opened.record.held, given)
    if missing:
        raise FormatError(_lacks(missing))
    try:
        if isinstance(opened.record, PreparedRecord):
            prepared = build_prepared(opened.record, opened.source, given, backend, opened.history)
            return Loaded(prepared, opened)
        made = build_quantized(opened.record, opened.source, given, backend, opened.history)
        return Loaded(made, opened)
    except (FormatError, BackendError):
        raise
    except Exception as error:  # whatever passes, kernels and PyTorch say to what a file says
        raise FormatError(
            f"what the file describes can't be made: {type(error).__name__}: {error}"
        ) from error


def open_buffer(buffer: Any, types: Types, *, verify: bool) -> Opened:
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
    kind = fields.choice("kind", ("quantized", "prepared"))
    source = TensorSource.read(container, fields.record("tensors"), verify=verify)
    read_record = read_quantized if kind == "quantized" else read_prepared
    record = read_record(fields.record("model"), types, source)
    compiled = fields.record("compiled") if fields.has("compiled") else None
    if compiled is not None and kind != "quantized":
        fields.refuse("compiled", "is no quantized model's")
    fields.close()
    history = _history(container, lenient=lenient, lazy=kind == "quantized")
    return Opened(record, source, history, compiled)


def _history(container: Container, *, lenient: bool, lazy: bool) -> History:
    """The history, if the file has one; that of a quantized model is read when it is looked at."""
    if tensor_name(HISTORY) not in container.entries:
        return UnkeptHistory()

    def read() -> list[Stage]:
        return read_history(Fields(unpack(container, HISTORY), "the history", lenient=lenient))

    return StoredHistory(read) if lazy else History(read())


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


def _lacks(missing: list[ModuleRecord]) -> str:
    shown = ", ".join(f"{m.path} ({m.kind.name})" for m in missing[:10])
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    first = missing[0].path
    return (
        f"the model calls modules whose code is not in the file: {shown}{more}. Give them: "
        f"qfx.load(path, modules={{{first!r}: the_module, ...}}), or the model that has them: "
        "qfx.load(path, model=float_model)"
    )
