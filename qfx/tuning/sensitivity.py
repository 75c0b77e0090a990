"""How much each site costs: the noise in the model's output when it alone is rounded.

    noise(site, bits) = |f(x; site rounded) - f(x)|^2 / |f(x)|^2       on one batch of calibration

Nothing is quantized for that: the prepared model computes in float, and the weight and what the
site reads are put through their rounding, in place, one site after another. It is a proxy: errors
of single sites add up only while they are small, which is what a search starts from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx.capture.arguments import copy_tensors
from qfx.errors import ConfigError
from qfx.numerics.measures import error_of
from qfx.quant.annotation import annotation
from qfx.quant.observers import Observer
from qfx.quant.qparams import QParams, quantize_weight
from qfx.quant.recorders import observer_of, recorder_of
from qfx.quant.spec import QuantSpec
from qfx.runtime.calibration import Calibrated, run_calibration, run_example
from qfx.tuning.space import Place, graph_weight, weights_of

CANDIDATES = ("minmax", "moving_average_minmax", "percentile")
"""Observers that are tried beside the default one, at every site."""


@dataclass(frozen=True)
class PlaceNoise:
    """What rounding a place does to the output: noise over signal.

    Attributes:
        int8: with what it reads, and its weight, in 8 bits.
        int4: the same with its weight in 4 bits; None where that is no choice.
        observer: with which what it reads errs least; "" for the default one.
    """

    int8: float
    int4: float | None
    observer: str


@dataclass
class Meter:
    """A calibrated model whose sites can be rounded one by one.

    Attributes:
        subject: what data runs through.
        first: the first batch of calibration.
        others: of each observer, what observers of other kinds saw.
        expected: what the float model yields for the first batch.
    """

    subject: Calibrated
    first: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    others: dict[Observer, dict[str, Observer]] = field(default_factory=dict)
    expected: Any = None

    def calibrate(self, data: object) -> None:
        """Run all data, or the examples if there is none, and let every kind of observer see it."""
        kept: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not kept:
                kept.append(copy_tensors((args, kwargs)))

        with ExitStack() as hooks:
            handle = self.subject.model.register_forward_pre_hook(keep, with_kwargs=True)
            hooks.callback(handle.remove)
            for observer in _choosable(self.subject):
                self.others[observer] = seeing = _others(observer)
                watching = observer.register_forward_pre_hook(partial(_show, seeing))
                hooks.callback(watching.remove)
            if data is None:
                run_example(self.subject)
            else:
                run_calibration(self.subject, data, steps=None, progress=False)
        self.first = kept[0]
        for graph in self.subject.graphs:
            graph.eval()
        self.expected = self._run()

    def measured(self, place: Place) -> PlaceNoise:
        """What rounding a place does to the output."""
        int8 = self._error(place, narrow=False)
        int4 = None if place.narrow is None else self._error(place, narrow=True)
        return PlaceNoise(int8, int4, self._least(place))

    def _least(self, place: Place) -> str:
        """The observer with which what a place reads errs least; "" for the default one."""
        found = [o for o in _observers(place) if o in self.others and o.seen]
        if not found:
            return ""
        errors = {"": self._reading(found, [o.qparams() for o in found])}
        for name in self.others[found[0]]:
            errors[name] = self._reading(found, [self.others[o][name].qparams() for o in found])
        return min(errors, key=lambda name: errors[name])

    def _reading(self, observers: Sequence[Observer], qparams: Sequence[QParams]) -> float:
        """The error with nothing but what some observers see rounded."""
        with ExitStack() as undo:
            for observer, each in zip(observers, qparams, strict=True):
                undo.enter_context(_rounding(observer, each))
            return self._distance(self._run())

    def _error(self, place: Place, *, narrow: bool) -> float:
        with ExitStack() as undo:
            for observer in _observers(place):
                if observer.seen:
                    undo.enter_context(_rounding(observer, observer.qparams()))
            for graph, node in place.calls:
                note = annotation(node)
                usual = None if note is None else note.weight
                spec = place.narrow if narrow else usual
                if spec is None:
                    continue
                for weight in weights_of(node):
                    undo.enter_context(_rounded(graph_weight(graph, weight), spec))
            return self._distance(self._run())

    @torch.no_grad()
    def _run(self) -> Any:
        args, kwargs = copy_tensors(self.first)
        return self.subject.model(*args, **kwargs)

    def _distance(self, found: object) -> float:
        """Noise over signal; infinite where results can't be held against each other."""
        try:
            error = error_of(self.expected, found)
        except ConfigError:  # other shapes: boxes that were found, say
            return float("inf")
        if error.noise == 0:
            return 0.0
        return error.noise / error.signal if error.signal > 0 else float("inf")


def _choosable(subject: Calibrated) -> Iterator[Observer]:
    """The observers of activations that others may take the place of."""
    for graph in subject.graphs:
        for module in graph.modules():
            if isinstance(module, Observer) and module.spec.observer == "histogram":
                yield module


def _others(observer: Observer) -> dict[str, Observer]:
    made = {name: replace(observer.spec, observer=name).make_observer() for name in CANDIDATES}
    return {name: each.to(observer.batches.device) for name, each in made.items()}


def _show(seeing: dict[str, Observer], module: nn.Module, args: tuple[Any, ...]) -> None:
    for each in seeing.values() if module.training else ():
        each.observe(args[0])


def _observers(place: Place) -> list[Observer]:
    """The observers of what a place reads."""
    found: dict[Observer, None] = {}
    for _, node in place.calls:
        for read in node.all_input_nodes:
            observer = _observer_behind(read)
            if observer is not None:
                found[observer] = None
    return list(found)


def _observer_behind(node: fx.Node) -> Observer | None:
    while recorder_of(node) is not None:
        (node,) = node.all_input_nodes
    found = observer_of(node)
    return found if isinstance(found, Observer) else None


@contextmanager
def _rounding(observer: Observer, qparams: QParams) -> Iterator[None]:
    """Let an observer hand on what it gets rounded."""

    def rounded(module: nn.Module, args: tuple[Any, ...], result: Tensor) -> Tensor:
        return qparams.dequantize(qparams.quantize(result), result.dtype)

    hook: Callable[..., Any] = rounded
    handle = observer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _rounded(weight: Tensor, spec: QuantSpec) -> Iterator[None]:
    """Have a weight rounded."""
    if spec.dtype == torch.float16:
        made = weight.detach().half().to(weight.dtype)
    else:
        integers, qparams = quantize_weight(weight, spec)
        made = qparams.dequantize(integers, weight.dtype)
    before = weight.data
    weight.data = made
    try:
        yield
    finally:
        weight.data = before
