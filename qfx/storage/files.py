"""A model as one file, and back (:mod:`qfx.keeping` is what users call).

    container -> checked records -> graph and tensors -> lowering -> model

Nothing of a file is imported, executed or unpickled. What it describes is checked whole before
anything is made of it; docs/format.md has every field.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeAlias, cast

import torch
from torch import nn

from qfx.backends.base import Backend
from qfx.caller_modes import on_cpu, undisturbed
from qfx.errors import BackendError, ConfigError, FormatError
from qfx.garbage_collection import patiently
from qfx.runtime.prepared import PreparedModel
from qfx.runtime.quantized import QuantizedModel
from qfx.runtime.regions import Regions, regions_of
from qfx.storage.assembly import build_regions, missing_modules, needs_model
from qfx.storage.attributes import ModuleRecord, lacking
from qfx.storage.checksums import Checksums
from qfx.storage.container import write_container
from qfx.storage.documents import HISTORY, MODEL, pack
from qfx.storage.fields import Json
from qfx.storage.histories import UnkeptHistory, write_history
from qfx.storage.opening import FORMAT, VERSION, Opened, open_buffer
from qfx.storage.paths import check_target, read_buffer
from qfx.storage.prepared import build_prepared, write_prepared
from qfx.storage.prepared_records import PreparedRecord
from qfx.storage.quantized import build_quantized, write_quantized
from qfx.storage.regions import FEATURE as REGIONS
from qfx.storage.regions import RegionsRecord, write_regions
from qfx.storage.targets import Types
from qfx.storage.tensors import TensorStore
from qfx.thread_switching import quick_switching
from qfx.training.schedule import QATSchedule

Describe: TypeAlias = Callable[[TensorStore], Json]
"""Says something as JSON, and keeps tensors."""


# -- save ----------------------------------------------------------------------------------------
@undisturbed()
@on_cpu()
@patiently
def write(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    history: bool,
    schedule: QATSchedule | None,
    compiled: Describe | None,
    regions: Regions[QuantizedModel] | None = None,
) -> Path:
    """:func:`qfx.save`; ``compiled`` says how a quantized model was compiled.

    ``regions`` are those that a compiled model has in the place of its own.
    """
    if schedule is not None and not isinstance(schedule, QATSchedule):
        raise ConfigError(f"schedule is {type(schedule).__name__}; give a qfx.QATSchedule or None")
    regions = regions_of(model) if regions is None else regions
    parts = (model,) if regions is None else tuple(regions.values())
    _check_parts(parts, history=history, schedule=schedule)
    target = Path(path)
    check_target(target)
    store, features = TensorStore(), list[Json]()
    if regions is not None:
        kind, described = "regions", write_regions(model, regions, store, schedule)
        features.append(REGIONS)
    elif isinstance(model, QuantizedModel):
        kind, described = "quantized", write_quantized(model, store)
    else:
        assert isinstance(model, PreparedModel)
        kind, described = "prepared", write_prepared(model, store, schedule)
    document: dict[str, Json] = {
        "kind": kind,
        "qfx": _own_version(),
        "torch": str(torch.__version__),
        "features": features,
        "model": described,
    }
    if compiled is not None:
        document["compiled"] = compiled(store)
    document["tensors"] = store.describe()
    held, said = pack(MODEL, document)
    if history or isinstance(parts[0], PreparedModel):
        stages, said_of_stages = pack(HISTORY, _write_histories(model, regions))
        held, said = held | stages, said | said_of_stages
    metadata = {"format": FORMAT, "version": ".".join(map(str, VERSION)), **said}
    write_container(target, {**store.stored, **held}, metadata)
    return target


def _check_parts(parts: Sequence[object], *, history: bool, schedule: QATSchedule | None) -> None:
    """ConfigError for what is no model of ours, or not all that is asked for."""
    for part in parts:
        if not isinstance(part, (QuantizedModel, PreparedModel)):
            raise ConfigError(
                f"save takes a quantized or prepared model, not a {type(part).__name__}; of other "
                "modules keep the state_dict()"
            )
        if schedule is not None and not schedule.trains(part):
            raise ConfigError("schedule is that of another model; give the one made of this model")
        if history and isinstance(part.history, UnkeptHistory):
            raise ConfigError(
                f"the model comes from a file and has no history: {UnkeptHistory.missing}"
            )


def _write_histories(model: Any, regions: Regions[Any] | None) -> Json:
    if regions is None:
        return write_history(model.history)
    return {name: write_history(graph.history) for name, graph in regions.items()}


def _own_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("qfx")
    except PackageNotFoundError:  # a checkout that was never installed
        return "unknown"


# -- load ----------------------------------------------------------------------------------------
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
    if model is not None and regions_of(model) is not None:
        raise ConfigError("model is one of regions already; give the float model")
    kinds = Types.of(types)
    buffer = read_buffer(path, mapped=mmap)
    try:
        return _loaded(buffer, backend, given, kinds, model, verify=verify)
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
    model: nn.Module | None = None,
) -> QuantizedModel | PreparedModel:
    """The model in the bytes of a file, which must be writable and belong to nobody else."""
    kinds = types or Types({})
    return _loaded(buffer, backend, given or {}, kinds, model, verify=verify).model


def _loaded(
    buffer: Any,
    backend: str | Backend | None,
    given: Mapping[str, nn.Module],
    types: Types,
    model: nn.Module | None,
    *,
    verify: bool,
) -> Loaded:
    with quick_switching(), Checksums() as checksums:
        opened = open_buffer(buffer, types, checksums if verify else None)
        return Loaded(_made(opened, backend, given, model), opened)


def _made(
    opened: Opened,
    backend: str | Backend | None,
    given: Mapping[str, nn.Module],
    model: nn.Module | None,
) -> QuantizedModel | PreparedModel:
    """What a file holds, unless that needs more than was given."""
    record = opened.record
    if not isinstance(record, RegionsRecord):
        missing = lacking(record.held, given)
    elif model is None:
        raise needs_model(record)
    else:
        missing = missing_modules(record, model, given)
    if missing:
        raise FormatError(_lacks(missing))
    try:
        return _built(opened, backend, given, model)
    except (FormatError, BackendError):
        raise
    except Exception as error:  # whatever passes, kernels and PyTorch say to what a file says
        raise FormatError(
            f"what the file describes can't be made: {type(error).__name__}: {error}"
        ) from error


def _built(
    opened: Opened,
    backend: str | Backend | None,
    given: Mapping[str, nn.Module],
    model: nn.Module | None,
) -> QuantizedModel | PreparedModel:
    record, source, histories = opened.record, opened.source, opened.histories
    if isinstance(record, RegionsRecord):
        assert model is not None
        made = build_regions(record, source, model, given, backend, histories)
        return cast(QuantizedModel, made)  # as qfx.quantize calls it
    if isinstance(record, PreparedRecord):
        return build_prepared(record, source, given, backend, histories[""])
    return build_quantized(record, source, given, backend, histories[""])


def _lacks(missing: list[ModuleRecord]) -> str:
    shown = ", ".join(f"{m.path} ({m.kind.name})" for m in missing[:10])
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    first = missing[0].path
    return (
        f"the model calls modules whose code is not in the file: {shown}{more}. Give them: "
        f"qfx.load(path, modules={{{first!r}: the_module, ...}}), or the model that has them: "
        "qfx.load(path, model=float_model)"
    )
