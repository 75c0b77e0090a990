"""qfx.save and qfx.load, for models of every kind."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

from torch import nn

from qfx.backends.base import Backend
from qfx.engines.compiled import CompiledModel
from qfx.engines.kept import describe, quantized_of, revived
from qfx.engines.kept_regions import (
    compiled_regions,
    describe_regions,
    quantized_regions,
    revived_regions,
)
from qfx.runtime.prepared import PreparedModel
from qfx.runtime.quantized import QuantizedModel
from qfx.runtime.regions import regions_of
from qfx.storage import files
from qfx.training.schedule import QATSchedule


def save(
    model: QuantizedModel | PreparedModel | CompiledModel,
    path: str | os.PathLike[str],
    *,
    history: bool = False,
    schedule: QATSchedule | None = None,
) -> Path:
    """Write a model to one file: a safetensors file whose metadata says what it computes.

    Of a compiled model that is the quantized one, and what was chosen for it; no program of an
    engine is in it.

    Args:
        model: what :func:`qfx.quantize`, :func:`qfx.convert` or :func:`qfx.prepare` returned, or
            :func:`qfx.compile` made of a quantized one.
        path: where to; a file there is replaced once the new one is whole.
        history: keep the history of a quantized model, too; that of a prepared one is always kept.
        schedule: of a model in training, which ``qfx.load(path).schedule`` goes on with.

    Returns:
        The path.

    Raises:
        ConfigError: ``model`` is no such model, or has no history to keep.
        FormatError: it holds what no file can hold, with the node and line.
        OSError: no file can be written there.
    """
    regions = compiled_regions(model)
    if regions is not None:
        kept_regions, said = quantized_regions(regions), describe_regions(regions)
        return files.write(
            model,
            path,
            history=history,
            schedule=schedule,
            compiled=said,
            regions=kept_regions,
        )
    if not isinstance(model, CompiledModel):
        return files.write(model, path, history=history, schedule=schedule, compiled=None)
    kept, said = quantized_of(model), describe(model)
    return files.write(kept, path, history=history, schedule=schedule, compiled=said)


def load(
    path: str | os.PathLike[str],
    *,
    backend: str | Backend | None = None,
    modules: Mapping[str, nn.Module] | None = None,
    model: nn.Module | None = None,
    types: Iterable[type] = (),
    verify: bool = True,
    mmap: bool = True,
) -> QuantizedModel | PreparedModel | CompiledModel:
    """Read a model that :func:`save` wrote; its outputs are those of the model that was saved.

    The weights are mapped, not read: they share memory between processes until they are written to.
    A file that is mapped must not be cut off or written to in place: the process would be killed
    (SIGBUS), or compute something else. Replace it by rename, as :func:`save` does; where others
    write to it, load with ``mmap=False``.

    A compiled model is compiled as it was, without a search, if CPU, versions and threads are the
    same - what lies in the cache of this machine (``QFX_CACHE_DIR``) need not be built; otherwise a
    warning says what is different, and engines are tried anew.

    Args:
        path: the file.
        backend: None for the one that it was saved for; "reference" runs it anywhere; a
            ``qfx.Backend`` where that is installed under no name.
        modules: the modules that the file does not bring the code of, by path in the model; their
            state comes from the file.
        model: the float model, or one built like it, that has them under these paths.
        types: classes that the model returns instances of (dataclasses, named tuples, ...).
        verify: compare the checksum of every tensor, for which all bytes are read.
        mmap: False reads the whole file at once; what happens to it later is all the same then.

    Raises:
        FormatError: it is no such file, is damaged, or needs modules or types that were not given.
        BackendError: this machine can't run it as it was saved; the message says what is missing.
        OSError: the file can't be opened.
    """
    loaded = files.read(
        path,
        backend=backend,
        modules=modules,
        model=model,
        types=types,
        verify=verify,
        mmap=mmap,
    )
    if loaded.file.compiled is None:
        return loaded.model
    said, source = loaded.file.compiled, loaded.file.source
    regions = regions_of(loaded.model)
    if regions is not None:
        made = revived_regions(loaded.model, regions, said, source, path)
        return cast(CompiledModel, made)  # as qfx.compile calls it
    assert isinstance(loaded.model, QuantizedModel)
    return revived(loaded.model, said, source, path)
