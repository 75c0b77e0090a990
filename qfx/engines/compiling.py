"""qfx.compile: the fastest engine that agrees with the model, or the one that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import nn
from tqdm import tqdm

from qfx.caller_modes import undisturbed
from qfx.engines.base import CannotRun, Engine
from qfx.engines.cache import CacheEntry
from qfx.engines.choose import Choosing, EngineChoice
from qfx.engines.compiled import CompiledModel
from qfx.engines.regional import compile_regions
from qfx.engines.registry import engines, named
from qfx.engines.request import FLOAT_DTYPES, CompileRequest
from qfx.engines.source import call_of, source_of
from qfx.engines.trials import EngineTrial
from qfx.errors import BackendError, ConfigError, warn
from qfx.garbage_collection import patiently
from qfx.runtime.regions import regions_of
from qfx.runtime.samples import Progress


@undisturbed()
@torch.random.fork_rng(devices=[])
@patiently
def compile(
    model: nn.Module,
    example_inputs: object = None,
    *,
    engine: str | Sequence[str] = "auto",
    threads: int | None = None,
    dynamic: bool = True,
    float_dtype: torch.dtype = torch.float32,
    progress: bool | None = None,
) -> CompiledModel:
    """Run a model on the fastest engine that this machine has.

    Each engine is given the reference graph, which is what a quantized model means: whole, or in
    pieces between what it can't take. It is held against that graph on the examples, and timed in
    turns with the others; of those that agree the fastest is kept. What was chosen and built is
    cached on disk (``QFX_CACHE_DIR``, "off" for not), and is there at once the next time.

    Args:
        model: what :func:`qfx.quantize` or :func:`qfx.convert` returned; or a float model in eval
            mode, which is compiled as it is. It is not changed.
        example_inputs: a tensor, a tuple of positional arguments, or a mapping of arguments by
            name; None takes random numbers of the shapes that a quantized model was captured with.
        engine: "auto", or one or several names out of ``qfx.engines.available()``.
        threads: that an engine may use for a call; None: as many as PyTorch uses
            (``torch.get_num_threads()``). "eager" and "inductor" always run on PyTorch's.
        dynamic: take every size that the model takes; False takes those of the examples only.
        float_dtype: in which parts that stay float may be computed: float32, or bfloat16 where an
            engine and the CPU can (OpenVINO on CPUs with AMX or AVX-512 BF16).
        progress: show a progress bar; None shows one on a terminal.

    Returns:
        A module that is called like ``model``; ``print`` shows what was tried. Of a model of
        several regions, a copy of it whose ``.regions`` are such modules.

    Raises:
        ConfigError: an argument is wrong.
        BackendError: an engine that was asked for is not installed, or can't run the model.
        CaptureError: a float model can't be traced.
    """
    wanted = _engines(engine)
    names = None if engine == "auto" else tuple(each.name for each in wanted)
    request = CompileRequest(names, _threads(threads), _dynamic(dynamic), _float_dtype(float_dtype))
    regions = regions_of(model)
    if regions is not None:
        given = None if example_inputs is None else call_of(example_inputs)
        one = partial(
            compile,
            engine=engine,
            threads=threads,
            dynamic=dynamic,
            float_dtype=float_dtype,
            progress=progress,
        )
        made = compile_regions(model, regions, given, one)
        return cast(CompiledModel, made)  # is called like one, and has .regions
    return compile_as(request, wanted, model, example_inputs, progress=progress)


def compile_as(
    request: CompileRequest,
    wanted: Sequence[Engine],
    model: nn.Module,
    example_inputs: object,
    known: Known | None = None,
    *,
    progress: bool | None = None,
) -> CompiledModel:
    """Compile a model that is captured whole.

    Args:
        request: what was asked for.
        wanted: the engines that it names.
        model: quantized, or a float one.
        example_inputs: as for :func:`compile`.
        known: makes what was chosen before, instead of a search; None from it is one after all.
        progress: as for :func:`compile`.
    """
    source = source_of(model, example_inputs)
    entry = CacheEntry.of(source, wanted, request.settings, dynamic=request.dynamic)
    choice = entry and entry.load({each.name: each for each in wanted})
    if choice:
        return CompiledModel(source, choice, request)
    choosing = Choosing(source, request.settings, dynamic=request.dynamic)
    choice = known and known(choosing)
    if not choice:
        choice = _search(choosing, request, wanted, _bar(progress))
    if entry:
        (engine_in_use,) = [each for each in wanted if each.name == choice.engine]
        entry.store(choice, engine_in_use, dynamic=request.dynamic)
    return CompiledModel(source, choice, request)


Known = Callable[[Choosing], "EngineChoice | None"]


def _search(
    choosing: Choosing, request: CompileRequest, wanted: Sequence[Engine], bar: _Bar
) -> EngineChoice:
    try:
        choose = _auto if request.engines is None else Choosing.choose
        return choose(choosing, wanted, bar)
    except CannotRun as error:
        raise BackendError(
            f"no engine that was asked for runs the model:\n{error}\nWhat to do: "
            'engine="auto" takes another one'
        ) from error


_Bar = Callable[[Sequence[Engine]], Iterable[Engine]]


def _bar(progress: bool | None) -> _Bar:
    shown = Progress(progress).is_shown
    return lambda wanted: tqdm(wanted, desc="trying engines", disable=not shown)


def _auto(choosing: Choosing, wanted: Sequence[Engine], bar: _Bar) -> EngineChoice:
    """The best of the engines that build in seconds; those that take minutes are asked for."""
    quick = [engine for engine in wanted if not engine.patient]
    choice = choosing.choose(quick, bar)
    others = [engine.lacks() for engine in quick if engine.name != "eager"]
    if all(others):
        warn(f"no engine is installed, so that eager runs the model. {'; '.join(others)}")
    slow = [engine for engine in wanted if engine.patient]
    return replace(choice, trials=(*choice.trials, *map(_not_tried, slow)))


def _not_tried(engine: Engine) -> EngineTrial:
    version = "" if engine.lacks() else engine.version()
    why = engine.lacks() or f"builds for minutes: engine={engine.name!r} tries it"
    return EngineTrial(engine.name, version, why_not=why)


def _engines(wanted: object) -> list[Engine]:
    """The engines of names.

    Raises:
        ConfigError: one does not exist.
        BackendError: one can't be used here.
    """
    if isinstance(wanted, str) and wanted == "auto":
        return list(engines().values())
    names = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(names, Sequence) or not names:
        raise ConfigError(f"engine is {wanted!r}; give 'auto', a name, or a list of names")
    found = [named(name) for name in dict.fromkeys(names)]
    for each in found:
        lacks = each.lacks()
        if lacks:
            raise BackendError(f"engine {each.name!r} can't be used: {lacks}")
    return found


def _threads(threads: object) -> int | None:
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ConfigError(f"threads is {threads!r}; give a whole number from 1 on, or None")
    return threads


def _dynamic(dynamic: object) -> bool:
    if type(dynamic) is not bool:
        raise ConfigError(f"dynamic is {dynamic!r}; it can be True or False")
    return dynamic


def _float_dtype(dtype: object) -> torch.dtype:
    if dtype not in FLOAT_DTYPES.values():
        raise ConfigError(f"float_dtype is {dtype!r}; it can be torch.float32, or torch.bfloat16")
    assert isinstance(dtype, torch.dtype)
    return dtype
