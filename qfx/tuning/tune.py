"""qfx.tune: the smallest model whose score is good enough."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from torch import nn
from torch.export import ExportedProgram
from tqdm import tqdm

from qfx.api import prepare
from qfx.argument_checks import check_example_inputs, check_method
from qfx.backends import resolve_backend
from qfx.backends.base import Backend
from qfx.capture.wrappers import unwrapped
from qfx.configuration.defaults import get_default_qconfig
from qfx.errors import ConfigError, warn
from qfx.pipelines import EFFORTS
from qfx.quant.qconfig import QConfigMapping
from qfx.report.tuning import Sensitivity, Tuning, TuningTrial
from qfx.runtime.calibration import calibrated
from qfx.runtime.quantized import QuantizedModel
from qfx.runtime.ranks import several
from qfx.runtime.samples import Progress
from qfx.tuning.record import Record, TrialOutcome, told_apart
from qfx.tuning.search import Ladder, Search
from qfx.tuning.sensitivity import Meter
from qfx.tuning.space import Place, Plan, mapping_of, narrowed, places_of
from qfx.tuning.trials import Evaluate, StopSearch, Trials, TuningTask

_UNSCORED = (
    "no quantized model could be scored, so that the one that was returned is good by nothing but "
    "hope: {why}. See print(model.tuning), and mend evaluate"
)


def tune(
    model: nn.Module | ExportedProgram,
    example_inputs: object,
    calibration_data: Iterable[Any] | None,
    evaluate: Evaluate,
    *,
    max_drop: float = 0.01,
    min_score: float | None = None,
    budget: float | timedelta | None = None,
    state: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    method: str = "static",
    backend: str | Backend = "auto",
    example_kwargs: Mapping[str, Any] | None = None,
    max_bytes: int | None = None,
    max_ms: float | None = None,
) -> QuantizedModel:
    """Find the smallest quantized model whose score is good enough.

    First how much each site costs is measured, without ``evaluate``; then models are made and
    evaluated: weights in 4 bits where that costs least, sites in float where 8 bits cost too much,
    other observers, more effort.

    Args:
        model: the float model, in eval mode; not changed.
        example_inputs: as for :func:`qfx.quantize`.
        calibration_data: as there; what can be gone through only once is kept in memory.
        evaluate: takes a module that is called like ``model``, and returns a number, of which more
            is better. Where it raises or returns NaN, that trial counts as failed. Of a model under
            torch.compile or DataParallel, or of an ExportedProgram, it is given the module in it.
        max_drop: how far below the float model's score the score may be.
        min_score: the least score, in place of ``max_drop``.
        budget: a whole number is a number of trials, those of earlier runs in ``state`` included;
            any other number, or a timedelta, is seconds. None tries all there is to try, which is
            some thirty trials at most.
        state: a file that keeps what is known, and from which a search that was interrupted goes
            on. It belongs to one model and one way of quantizing it.
        progress: show a progress bar; None shows one on a terminal.
        method: as for :func:`qfx.quantize`.
        backend: as there.
        example_kwargs: as there.
        max_bytes: the most bytes, as ``report.size_bytes`` counts them, that the model may have.
        max_ms: the most milliseconds that a call may take on the fastest engine of
            :func:`qfx.compile`, on the example inputs.

    Returns:
        The smallest model that reaches the goal within the limits; else, of those within the
        limits, the one with the highest score. Its ``.tuning`` tells which, and lists all trials.
        An interrupt (Ctrl-C) ends the search, and the best so far is returned, if there is any.

    Raises:
        ConfigError: an argument is wrong, ``evaluate`` can't tell the score of the float model, or
            ``state`` belongs to another search.
        FormatError: ``state`` is no file of a search, or is damaged.
        OSError: ``state`` can't be read or written.
    """
    _check_alone()
    check_method(method, trains=False)
    _check_numbers(max_drop, min_score, max_bytes, max_ms)
    if not callable(evaluate):
        raise ConfigError(f"evaluate is {type(evaluate).__name__}; give a function of a module")
    most_trials, most_seconds = _budget(budget)
    if state is not None and not isinstance(state, (str, os.PathLike)):
        raise ConfigError(f"state is {type(state).__name__}; give the path of a file, or None")
    model, _ = unwrapped(model)
    call = check_example_inputs(example_inputs, example_kwargs)
    target = resolve_backend(backend)
    once = isinstance(calibration_data, Iterator)
    data = list(calibration_data) if once and calibration_data is not None else calibration_data
    task = TuningTask(
        model, example_inputs, example_kwargs, data, method, backend, evaluate, max_drop,
        min_score, max_bytes, max_ms, most_trials, most_seconds,
    )  # fmt: skip
    shown = Progress(progress).is_shown
    start = Plan(effort="default")
    tuner = _Tuner(task, target, start, shown)
    tuner.trials.prepare_first(start)
    tuner.open(state, call)
    return tuner.run()


class _Tuner:
    """One call of :func:`tune`."""

    def __init__(self, task: TuningTask, target: Backend, start: Plan, shown: bool) -> None:
        self._task, self._target, self._start, self._shown = task, target, start, shown
        self._qconfig = get_default_qconfig(target, task.method)
        self._places: list[Place] = []
        self._bar: tqdm[Any] | None = None
        self._stopped = "finished"
        self.trials = Trials(task, Record(None, ""), self._rules, self._tell)

    def open(self, state: str | os.PathLike[str] | None, call: tuple[Any, Any]) -> None:
        """Go on from what a file knows."""
        if state is None:
            return
        key = told_apart(self._task.model, call, self._task.method, self._target.name)
        self.trials.record = Record.open(state, key)

    def run(self) -> QuantizedModel:
        """Search, and hand out the best."""
        self.trials.score_float()
        try:
            with self._progress():
                self.trials.outcome(self._start)
                self._search()
        except StopSearch:
            self._stopped = "budget"
        except KeyboardInterrupt:
            if not self.trials.ranked():
                raise
            self._stopped = "interrupted"
        return self._result()

    def _search(self) -> None:
        ladder = self._ladder()
        static = self._task.method == "static"
        harder = EFFORTS[EFFORTS.index(self._start.effort) + 1 :]
        efforts = harder if static or self._task.data is not None else ()
        Search(self.trials, ladder, static, efforts).run(self._start)

    def _ladder(self) -> Ladder:
        """Measure what was not measured yet."""
        task = self._task
        prepared = prepare(
            task.model,
            task.example_inputs,
            method=task.method,
            backend=task.backend,
            example_kwargs=task.example_kwargs,
        )
        subject, narrow = calibrated(prepared), narrowed(self._qconfig, task.method)
        self._places = places_of(subject.graphs, task.model, self._target, narrow)
        record = self.trials.record
        unknown = [place for place in self._places if place.key not in record.measured]
        if unknown:
            meter = Meter(subject)
            meter.calibrate(task.data)
            for place in tqdm(unknown, desc="measuring sites", disable=not self._shown):
                if self.trials.out_of_time():
                    raise StopSearch
                record.measured[place.key] = meter.measured(place)
                record.write()
        return Ladder.of(self._places, record.measured)

    def _rules(self, plan: Plan) -> QConfigMapping | None:
        if not (plan.floats or plan.int4 or plan.per_site):
            return None
        observers = {key: m.observer for key, m in self.trials.record.measured.items()}
        return mapping_of(plan, self._places, self._qconfig, self._task.method, observers)

    @contextmanager
    def _progress(self) -> Iterator[None]:
        total = self._task.most_trials
        with tqdm(desc="tuning", unit="trial", total=total, disable=not self._shown) as bar:
            self._bar = bar
            yield

    def _tell(self, plan: Plan, outcome: TrialOutcome) -> None:
        if self._bar is not None:
            best = self.trials.ranked()[0][1]
            self._bar.n = len(self.trials.record.outcomes)
            self._bar.set_postfix(best=best.score, size=best.size)

    def _result(self) -> QuantizedModel:
        plan, outcome = self.trials.ranked()[0]
        if outcome.score is None:
            warn(_UNSCORED.format(why=outcome.why_not.splitlines()[0]))
        model = self.trials.model_of(plan)
        model.__dict__["tuning"] = self._tuning(plan, model)
        return model

    def _tuning(self, best: Plan, model: QuantizedModel) -> Tuning:
        record, trials = self.trials.record, self.trials
        asked = {plan.key: plan for plan, _ in trials.ranked()}
        names = {place.key: place.label for place in self._places}
        rows = {
            key: self._row(number, asked[key], outcome, names)
            for number, (key, outcome) in enumerate(record.outcomes.items(), start=1)
            if key in asked
        }
        assert record.baseline is not None
        known = record.baseline
        baseline = TuningTrial(
            0, "", "", (), (), known.score, model.report.size_bytes[0], None, known.seconds,
            False, known.why_not,
        )  # fmt: skip
        row = rows[best.key]
        return Tuning(
            tuple(rows.values()), baseline, trials.goal, row, row.meets, self._stopped,
            self._sensitivity(),
        )  # fmt: skip

    def _row(
        self, number: int, plan: Plan, outcome: TrialOutcome, names: Mapping[str, str]
    ) -> TuningTrial:
        return TuningTrial(
            number,
            plan.effort,
            "per site" if plan.per_site else "default",
            tuple(label for key, label in names.items() if key in plan.int4),
            tuple(label for key, label in names.items() if key in plan.floats),
            outcome.score,
            outcome.size,
            outcome.milliseconds,
            outcome.seconds,
            self.trials.meets(outcome),
            outcome.why_not,
        )

    def _sensitivity(self) -> tuple[Sensitivity, ...]:
        measured = self.trials.record.measured
        found = [
            Sensitivity(place.label, m.int8, m.int4, m.observer, place.elements)
            for place in self._places
            if (m := measured.get(place.key)) is not None
        ]
        return tuple(sorted(found, key=lambda row: -row.int8))


def _check_alone() -> None:
    """ConfigError on one of several ranks, each of which would search on its own."""
    if several():
        raise ConfigError(
            "qfx.tune searches in one process, and this one is a rank of a process group: ranks "
            "would measure other things, and wait for each other. Call it in a process of its own, "
            "or after torch.distributed.destroy_process_group()"
        )


def _budget(budget: object) -> tuple[int | None, float | None]:
    """The most trials, and the most seconds."""
    if budget is None:
        return None, None
    if isinstance(budget, timedelta):
        budget = budget.total_seconds()
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not budget > 0:
        raise ConfigError(
            f"budget={budget!r}: give a whole number of trials from 1 on, seconds as a float or a "
            "datetime.timedelta, or None"
        )
    return (budget, None) if isinstance(budget, int) else (None, budget)


def _check_numbers(max_drop: object, min_score: object, max_bytes: object, max_ms: object) -> None:
    """ConfigError unless each is a number that means something."""
    if not _is_number(max_drop) or not float(max_drop) >= 0:  # type: ignore[arg-type]
        raise ConfigError(f"max_drop={max_drop!r}: give how far the score may fall, 0 or more")
    if min_score is not None and not _is_number(min_score):
        raise ConfigError(f"min_score={min_score!r}: give the least score, or None")
    for name, limit in (("max_bytes", max_bytes), ("max_ms", max_ms)):
        if limit is not None and not (_is_number(limit) and float(limit) > 0):  # type: ignore[arg-type]
            raise ConfigError(f"{name}={limit!r}: give a number above 0, or None")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
