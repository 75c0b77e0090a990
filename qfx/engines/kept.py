"""A compiled model in a file: the quantized model, and what was chosen for it.

No program of an engine is in the file: what reads one trusts its bytes, and a file may come from
anybody. It names the engine, how it was built, and with what; where that is the same, the engine is
built the same way again. What it was built into lies in the cache of this machine, if anywhere, and
is found there by the digest of the model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from qfx.caller_modes import undisturbed
from qfx.engines.admission import Guards, asks_numbers
from qfx.engines.base import CannotRun, Engine
from qfx.engines.choose import BuiltAs, Choosing, EngineChoice
from qfx.engines.compiled import CompiledModel
from qfx.engines.compiling import compile_as
from qfx.engines.machine import built_with, cores
from qfx.engines.registry import engines
from qfx.engines.request import FLOAT_DTYPES, CompileRequest
from qfx.engines.source import call_of
from qfx.engines.trials import EngineTrial
from qfx.errors import ConfigError, FormatError, QfxError, warn
from qfx.export.onnx.forms import OnnxForm
from qfx.graph.steps import called_with
from qfx.runtime.quantized import QuantizedModel
from qfx.storage.fields import Fields, Json, number
from qfx.storage.files import Describe
from qfx.storage.prepared import write_examples
from qfx.storage.tensors import TensorSource, TensorStore
from qfx.storage.values import ValueReader

_MOST_THREADS, _MOST_ENGINES = 1024, 100
_NUMBERS = ("median_ms", "least_ms", "build_seconds", "macs_inside")
_RATIOS = ("sqnr", "max_error")


def quantized_of(fast: CompiledModel) -> QuantizedModel:
    """The quantized model that a compiled one was made of.

    Raises:
        ConfigError: it was made of a float one.
    """
    model = fast.source.model
    if not isinstance(model, QuantizedModel):
        raise ConfigError(
            "what was compiled is a float model, whose code no file holds: keep its state_dict(), "
            "and compile it again; the cache makes that quick"
        )
    return model


# -- writing -------------------------------------------------------------------------------------
def describe(fast: CompiledModel) -> Describe:
    """What a file says of a compiled model, besides the quantized one."""

    def said(store: TensorStore) -> Json:
        choice, request, source = fast.choice, fast.request, fast.source
        built = BuiltAs.of(choice)
        examples = None if source.made_up else (tuple(source.args), dict(source.kwargs))
        if examples is not None and all(examples):  # by name: *args is a tuple there
            examples = (), dict(source.arguments)
        engine = engines().get(choice.engine)
        return {
            "engine": choice.engine,
            "form": built.form.value,
            "free": list(built.free),
            "built_with": {**built_with(engine, request.count)} if engine else {},
            "engines": None if request.engines is None else list(request.engines),
            "threads": request.threads,
            "dynamic": request.dynamic,
            "float_dtype": str(request.float_dtype).removeprefix("torch."),
            "trials": [_row(trial) for trial in choice.trials],
            "examples": None if examples is None else write_examples(examples, store),
        }

    return said


def _row(trial: EngineTrial) -> dict[str, Json]:
    return {name: _plain(value) for name, value in asdict(trial).items()}


def _plain(value: Any) -> Json:
    return number(value) if isinstance(value, float) else value


# -- reading -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class CompiledRecord:
    """What a file says of a compiled model; the names are those of :func:`describe`."""

    engine: str
    built: BuiltAs
    built_with: dict[str, str]
    request: CompileRequest
    trials: tuple[EngineTrial, ...]
    examples: object


def read_kept(fields: Fields, source: TensorSource) -> CompiledRecord:
    """What was chosen, checked.

    Raises:
        FormatError: it is no choice.
    """
    free = fields.items("free", 2)
    if not free or not all(type(each) is bool for each in free):
        fields.refuse("free", "is no list of true and false")
    form = OnnxForm(fields.choice("form", [each.value for each in OnnxForm]))
    dtype = fields.choice("float_dtype", FLOAT_DTYPES)
    made_with = fields.record("built_with")
    names = fields.texts("engines", _MOST_ENGINES) if fields.has("engines") else None
    threads = fields.integer("threads", 1, _MOST_THREADS) if fields.has("threads") else None
    kept = CompiledRecord(
        fields.text("engine"),
        BuiltAs(form, tuple(free)),
        {name: made_with.text(name) for name in made_with.names()},
        CompileRequest(names, threads, fields.flag("dynamic"), FLOAT_DTYPES[dtype]),
        tuple(_trial(row) for row in fields.records("trials", _MOST_ENGINES)),
        _examples(fields, source) if fields.has("examples") else None,
    )
    for name in ("engines", "threads", "examples"):
        fields.any(name)  # null is as good as not there
    fields.close()
    if kept.engine not in {trial.name for trial in kept.trials}:
        fields.refuse("engine", "is none of those that were tried")
    return kept


def _trial(row: Fields) -> EngineTrial:
    texts = {name: row.text(name) for name in ("name", "version", "form", "why_not")}
    numbers = {name: row.number(name) if row.has(name) else None for name in _NUMBERS}
    ratios = {name: row.number(name) for name in _RATIOS}
    for name in _NUMBERS:
        row.any(name)
    row.close()
    return EngineTrial(**texts, **numbers, **ratios)  # type: ignore[arg-type]


def _examples(fields: Fields, source: TensorSource) -> object:
    found = ValueReader(source.find).read(fields.any("examples"), f"{fields.place}.examples")
    right = type(found) is tuple and len(found) == 2 and type(found[0]) is tuple
    if not right or type(found[1]) is not dict or not all(type(k) is str for k in found[1]):
        fields.refuse("examples", "are no inputs")
    args, kwargs = found
    if args and kwargs:
        fields.refuse("examples", "are given by position and by name")
    return kwargs or args


def _check_examples(model: QuantizedModel, examples: object) -> None:
    """FormatError for examples that the model was not captured for."""
    if examples is None:
        return
    call = call_of(examples)
    if isinstance(examples, Mapping):
        call = called_with(model.reference.graph, examples)
    try:
        Guards(model.reference).check(*call)
    except Exception as error:  # whatever guards raise
        if asks_numbers(error):
            return
        raise FormatError(f"the model does not take the examples: {error}") from error


@undisturbed()
@torch.random.fork_rng(devices=[])
def revived(
    model: QuantizedModel, fields: Fields, source: TensorSource, path: str | os.PathLike[str]
) -> CompiledModel:
    """The compiled model that a file tells of; with a warning, if it must be chosen anew.

    Raises:
        FormatError: the file tells of none.
    """
    try:
        kept = read_kept(fields, source)
        _check_examples(model, kept.examples)
    except FormatError as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from error.__cause__
    try:
        return _compiled(model, kept, path)
    except QfxError:
        raise
    except Exception as error:  # whatever the reference graph raises
        text = f"{type(error).__name__}: {error}"
        raise FormatError(f"{os.fspath(path)}: the model can't be run: {text}") from error


def _compiled(
    model: QuantizedModel, kept: CompiledRecord, path: str | os.PathLike[str]
) -> CompiledModel:
    threads = kept.request.threads
    if threads is not None and threads > cores():
        warn(f"{path} asks for {threads} threads, and here are {cores()} cores, which are used")
        kept = replace(kept, request=replace(kept.request, threads=cores()))
    wanted = _wanted(kept.request)
    other = _difference(kept, wanted)
    if other:
        warn(f"{path} was compiled {other}: engines are tried anew")
        return compile_as(kept.request, wanted, model, kept.examples)
    engine = engines()[kept.engine]
    return compile_as(kept.request, wanted, model, kept.examples, _Known(engine, kept, path))


class _Known:
    """Makes what a file names."""

    def __init__(self, engine: Engine, kept: CompiledRecord, path: str | os.PathLike[str]) -> None:
        self._engine, self._kept, self._path = engine, kept, path

    def __call__(self, choosing: Choosing) -> EngineChoice | None:
        try:
            return choosing.again(self._engine, self._kept.built, self._kept.trials)
        except CannotRun as error:
            why = f"{self._path} names {self._engine.name}, which does not run it: {error}"
            warn(f"{why}. Engines are tried anew")
            return None


def _wanted(request: CompileRequest) -> list[Engine]:
    """The engines to choose from that can be used here; eager can."""
    known = engines()
    names = known if request.engines is None else request.engines
    found = [known[name] for name in names if name in known and not known[name].lacks()]
    return found or [known["eager"]]


def _difference(kept: CompiledRecord, wanted: Sequence[Engine]) -> str:
    """What is other than where it was compiled; "" if nothing is."""
    engine = next((each for each in wanted if each.name == kept.engine), None)
    if engine is None:
        return f"for {kept.engine!r}, which can't be used here"
    here, there = built_with(engine, kept.request.count), kept.built_with
    differs = [name for name in here if there.get(name) != here[name]]
    if not differs:
        return ""
    if differs[0] == "CPU":
        return "on another CPU"
    name = differs[0]
    return f"with {name} {there.get(name, 'of no version')[:80]}, and here is {here[name]}"
