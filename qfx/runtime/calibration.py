"""Calibration: run data through a prepared model while its observers record.

What a batch is: :mod:`qfx.runtime.batches`. What the examples set by keyword and is no data (a
flag, say) need not be in every batch. In a process group each rank runs batches of its own
(:mod:`qfx.runtime.ranks`).
"""

from __future__ import annotations

import inspect
import itertools
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from tqdm import tqdm

from qfx.capture.arguments import copy_tensors
from qfx.errors import CalibrationError, ConfigError, QfxError
from qfx.graph.copying import deep_copied
from qfx.graph.meta import where
from qfx.quant.observers import Observer
from qfx.runtime.batch_structure import Call, misfit, stranger
from qfx.runtime.batches import batches, length_of
from qfx.runtime.dtypes import COMPUTED_IN
from qfx.runtime.inputs import other_dtypes
from qfx.runtime.prepared import RECORDERS, PreparedModel
from qfx.runtime.ranks import together
from qfx.runtime.regions import regions_of
from qfx.runtime.samples import Progress

_EXAMPLES = "the example inputs"
_E = TypeVar("_E", bound=QfxError)


@dataclass(frozen=True)
class Calibrated:
    """What data runs through.

    Attributes:
        model: what is called.
        graphs: the prepared models in it: itself, or its regions.
        example_inputs, example_kwargs: what it was prepared with.
    """

    model: nn.Module
    graphs: tuple[PreparedModel, ...]
    example_inputs: tuple[Any, ...]
    example_kwargs: Mapping[str, Any]

    @property
    def graph(self) -> fx.Graph | None:
        """The graph of the whole model; None where it has several."""
        only = self.graphs[0]
        return only.graph if only is self.model else None

    @property
    def has_observers(self) -> bool:
        """Whether anything is to be calibrated."""
        return any(graph.has_observers for graph in self.graphs)

    @property
    def records(self) -> bool:
        """Whether anything in it remembers data, be it of use or not, or a pass measures on it."""
        steps = (step for graph in self.graphs for step in graph.settings.rest.passes)
        if any(hasattr(step, "room") for step in steps):
            return True
        return any(isinstance(m, RECORDERS) for graph in self.graphs for m in graph.modules())

    @contextmanager
    def calibrating(self) -> Iterator[None]:
        """Record what runs through."""
        with ExitStack() as recording:
            for graph in self.graphs:
                recording.enter_context(graph.calibrating())
            yield


def calibrated(prepared: nn.Module) -> Calibrated:
    """What data runs through, of a prepared model or one whose regions are prepared.

    What runs around regions is a copy: the state that its code keeps (buffers, counters, caches) is
    that of the model before, as graphs put back theirs when they are converted.
    """
    regions = regions_of(prepared)
    if regions is None:
        assert isinstance(prepared, PreparedModel)
        settings = prepared.settings
        examples = (settings.example_inputs, settings.example_kwargs)
        return Calibrated(prepared, (prepared,), *examples)
    around = regions.surroundings
    graphs = tuple(regions.values())
    parameters: dict[Tensor, Tensor] = {each: each for each in prepared.parameters()}
    run = deep_copied(prepared, {graph: graph for graph in graphs}, parameters)
    return Calibrated(run, graphs, around.example_inputs, around.example_kwargs)


def run_calibration(
    prepared: Calibrated, data: object, *, steps: int | None, progress: bool | None
) -> None:
    """Run ``data`` (at most ``steps`` batches) through ``prepared`` without gradients.

    Raises:
        ConfigError: ``data`` is of no known form, or a batch doesn't fit the model.
        CalibrationError: there was no batch, or one holds NaN or infinity.
    """
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise ConfigError(f"steps={steps!r}: give a number of batches from 1 on, or None for all")
    shown = Progress(progress).is_shown
    run = partial(_run_all, prepared, data, steps, shown)
    if together(prepared.graphs, run) == 0:
        raise CalibrationError(
            "calibration data is empty: no batch came out of it. Give at least one representative "
            "batch; an iterator that was already consumed yields nothing."
        )


def _run_all(prepared: Calibrated, data: object, steps: int | None, shown: bool) -> int:
    """Run the batches that this process has, and return how many these were."""
    chosen = itertools.islice(batches(data, _positional(prepared)), steps)
    total = steps if steps is not None else length_of(data)
    count = 0
    bar = tqdm(chosen, total=total, desc="calibrating", disable=not shown)
    with prepared.calibrating(), bar:
        for args, kwargs in bar:
            _run_batch(prepared, args, _completed(prepared, args, kwargs), count)
            count += 1
    return count


def _positional(prepared: Calibrated) -> int:
    """How many elements of a batch are inputs: as many as in the examples; the rest are labels.

    Where all examples are given by keyword, those that can be given by position count, in order.
    """
    if prepared.example_inputs:
        return len(prepared.example_inputs)
    parameters = inspect.signature(prepared.model.forward).parameters.values()
    wanted = (
        p.kind is p.POSITIONAL_OR_KEYWORD and p.name in prepared.example_kwargs for p in parameters
    )
    return sum(1 for _ in itertools.takewhile(bool, wanted))


def _completed(
    prepared: Calibrated, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """``kwargs``, with the settings (flags, numbers) of the examples that the model needs."""
    examples = prepared.example_kwargs
    if not examples:
        return kwargs
    parameters = inspect.signature(prepared.model.forward).parameters
    given = {*list(parameters)[: len(args)], *kwargs}
    added = {
        name: value
        for name, value in examples.items()
        if name in parameters and name not in given and _is_setting(value, parameters[name])
    }
    return {**kwargs, **added}


def _is_setting(value: object, parameter: inspect.Parameter) -> bool:
    """Whether ``value`` is no data, and either fixed by the capture or has no default."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return parameter.default is parameter.empty
    return value is None or isinstance(value, (bool, str, torch.dtype, torch.device, Enum))


def _lacking(prepared: Calibrated, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """What a batch has to give besides, in a sentence; "" if nothing."""
    parameters = inspect.signature(prepared.model.forward).parameters
    given = {*list(parameters)[: len(args)], *kwargs}
    single = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    missing = [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind in single and name not in given
    ]
    if not missing:
        return ""
    every = ", ".join(f"{n!r}: ..." for n in parameters if n in given or n in missing)
    return f"\nIt lacks {', '.join(missing)}: make each batch a dict, {{{every}}}."


def run_example(prepared: Calibrated) -> None:
    """Calibrate with the example inputs alone."""

    def run() -> int:
        _run_batch(prepared, prepared.example_inputs, dict(prepared.example_kwargs), None)
        return 1

    together(prepared.graphs, run)


def _run_batch(
    prepared: Calibrated, args: tuple[Any, ...], kwargs: dict[str, Any], number: int | None
) -> None:
    which = _EXAMPLES if number is None else f"calibration batch {number}"
    if number is not None and prepared.graph is not None:
        _check_structure(prepared, args, kwargs, which)
    try:
        own_args, own_kwargs = copy_tensors((args, kwargs))  # forward may write to its arguments
        with torch.no_grad():
            prepared.model(*own_args, **own_kwargs)
    except Exception as error:
        told = _told(prepared, args, kwargs, number, error)
        if told is error:
            raise
        raise told from error


def _told(
    prepared: Calibrated,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    number: int | None,
    error: Exception,
) -> QfxError:
    """The error to raise when a batch makes the model raise ``error``."""
    which = _EXAMPLES if number is None else f"calibration batch {number}"
    strange = stranger(*_compared(prepared, args, kwargs))
    if strange:
        return ConfigError(f"{which} does not fit the model: {strange}")
    if isinstance(error, CalibrationError):
        if _odd_dtypes(prepared, args, kwargs):
            return _unfit(prepared, args, kwargs, which, "")
        return _at(_site(prepared, error), CalibrationError, which, error)
    if isinstance(error, ConfigError):  # of an observer, or of a guard
        site = _site(prepared, error)
        if site is not None:
            return _at(site, ConfigError, which, error)
        return error if number is None else _unfit(prepared, args, kwargs, which, f"{error}\n")
    if isinstance(error, QfxError):
        return error
    return _unfit(prepared, args, kwargs, which, f"{type(error).__name__}: {error}\n")


def _odd_dtypes(prepared: Calibrated, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Which arguments have other dtypes than the examples; "" if none, or that is not known."""
    return "" if prepared.graph is None else other_dtypes(prepared.graph, args, kwargs)


def _unfit(
    prepared: Calibrated, args: tuple[Any, ...], kwargs: dict[str, Any], which: str, said: str
) -> ConfigError:
    """The error for a batch on which the model raises: what it has, and what the examples had."""
    examples = _describe(prepared.example_inputs, prepared.example_kwargs)
    given = f"{'It' if said else 'it'} has {_describe(args, kwargs)}"
    odd = _odd_dtypes(prepared, args, kwargs)
    convert = f"\nConvert the batches, as in x.to({COMPUTED_IN})." if odd else ""
    verb = "do" if which == _EXAMPLES else "does"
    return ConfigError(
        f"{which} {verb} not fit the model: {said}{given}; the example inputs were {examples}."
        f"{convert}{_lacking(prepared, args, kwargs)}"
    )


def _check_structure(
    prepared: Calibrated, args: tuple[Any, ...], kwargs: dict[str, Any], which: str
) -> None:
    """ConfigError for a batch that is nested otherwise than the examples."""
    difference = misfit(*_compared(prepared, args, kwargs))
    if difference:
        raise ConfigError(f"{which} does not fit the model: {difference}")


def _compared(
    prepared: Calibrated, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[inspect.Signature, Call, Call]:
    """What tells how a batch differs from the examples."""
    signature = inspect.signature(prepared.model.forward)
    return signature, (prepared.example_inputs, prepared.example_kwargs), (args, kwargs)


def _site(prepared: Calibrated, error: QfxError) -> fx.Node | None:
    """Where the observer that raised stands: the traceback knows which one it was."""
    frames = traceback.walk_tb(error.__traceback__)
    raised = [o for frame, _ in frames if isinstance(o := frame.f_locals.get("self"), Observer)]
    for graph in prepared.graphs if raised else ():
        names = {name for name, module in graph.named_modules() if module is raised[0]}
        node: fx.Node
        for node in graph.graph.nodes:
            if node.op == "call_module" and node.target in names:
                return node
    return None


def _at(site: fx.Node | None, kind: type[_E], which: str, error: QfxError) -> _E:
    """The error of an observer, with the batch that it was shown, and where it stands."""
    place = "" if site is None else f"at {where(site)}: "
    told = kind(f"{which}: {place}{error}")
    told.node = None if site is None else site.name
    return told


def _describe(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    shown = [_shape(a) for a in args] + [f"{k}={_shape(v)}" for k, v in kwargs.items()]
    return f"({', '.join(shown)})"


def _shape(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype}".removeprefix("torch.") + f"[{','.join(map(str, value.shape))}]"
    return type(value).__name__
