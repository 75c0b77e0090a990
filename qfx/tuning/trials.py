"""Trials: a plan is made, evaluated once, and kept if it is the best so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from qfx import pipelines
from qfx.api import quantize
from qfx.engines.compiling import compile as compile_model
from qfx.errors import ConfigError, QfxError
from qfx.quant.qconfig import QConfigMapping
from qfx.runtime.quantized import QuantizedModel
from qfx.tuning.record import Record, TrialOutcome
from qfx.tuning.space import Plan

Evaluate = Callable[[Any], float]


class StopSearch(Exception):  # noqa: N818  (it is no error)
    """The budget is used up."""


@dataclass(frozen=True)
class TuningTask:
    """What is asked for.

    Attributes:
        model: the float model.
        example_inputs, example_kwargs: as the user gave them.
        data: calibration data that can be gone through again and again.
        method, backend: of quantizing.
        evaluate: the user's.
        max_drop: how far below the float model a score may be.
        min_score: the least score; None where ``max_drop`` counts.
        max_bytes, max_ms: limits; None where there is none.
        most_trials, most_seconds: the budget; None where there is none.
    """

    model: nn.Module
    example_inputs: Any
    example_kwargs: Mapping[str, Any] | None
    data: Any
    method: str
    backend: Any
    evaluate: Evaluate
    max_drop: float
    min_score: float | None
    max_bytes: int | None
    max_ms: float | None
    most_trials: int | None
    most_seconds: float | None

    def within(self, outcome: TrialOutcome) -> bool:
        """Whether a model keeps to the limits."""
        too_large = self.max_bytes is not None and (outcome.size or 0) > self.max_bytes
        slow = self.max_ms is not None and (outcome.milliseconds or math.inf) > self.max_ms
        return not too_large and not slow


@dataclass
class Trials:
    """Makes and evaluates models, each plan once.

    Attributes:
        task: what is asked for.
        record: what is known, of earlier runs too.
        rules: the mapping of a plan.
        told: told of each outcome.
        goal: the score to reach.
    """

    task: TuningTask
    record: Record
    rules: Callable[[Plan], QConfigMapping | None]
    told: Callable[[Plan, TrialOutcome], None]
    goal: float = math.nan
    _tried: dict[str, Plan] = field(default_factory=dict)
    _best: tuple[Plan, QuantizedModel] | None = None
    _spare: tuple[Plan, QuantizedModel] | None = None
    _began: float = field(default_factory=time.monotonic)

    def score_float(self) -> None:
        """Find the goal, for which the float model is evaluated unless a least score is given.

        Raises:
            ConfigError: ``evaluate`` can't tell the score of the float model.
        """
        if self.record.baseline is None:
            began = time.perf_counter()
            try:
                score, why = _scored(self.task.evaluate, self.task.model), ""
            except Exception as error:
                if isinstance(error, Warning):
                    raise
                if self.task.min_score is None:
                    raise ConfigError(_NO_BASELINE.format(error=_said(error))) from error
                score, why = None, _said(error)
            seconds = time.perf_counter() - began
            self.record.baseline = TrialOutcome(score, None, None, seconds, why)
            self.record.write()
        base = self.record.baseline.score
        if self.task.min_score is not None:
            self.goal = self.task.min_score
        elif base is None or math.isinf(base):
            raise ConfigError(_NO_BASELINE.format(error=f"its score is {base}"))
        else:
            self.goal = base - self.task.max_drop

    def is_good(self, plan: Plan) -> bool:
        """Whether a plan reaches the goal, whatever its size."""
        return self._reaches(self.outcome(plan))

    def size(self, plan: Plan) -> int:
        """The bytes of a plan that was tried."""
        return self.outcome(plan).size or 0

    def outcome(self, plan: Plan) -> TrialOutcome:
        """What comes of a plan.

        Raises:
            StopSearch: it was not tried before, and the budget is used up.
        """
        self._tried.setdefault(plan.key, plan)
        known = self.record.outcomes.get(plan.key)
        if known is None:
            self._pay()
            known = self._try(plan)
            self.record.outcomes[plan.key] = known
            self.record.write()
        self.told(plan, known)
        return known

    def out_of_time(self) -> bool:
        """Whether the seconds of the budget are used up."""
        most = self.task.most_seconds
        return most is not None and time.monotonic() - self._began >= most

    def make(self, plan: Plan) -> QuantizedModel:
        """Quantize by a plan."""
        task = self.task
        return quantize(
            task.model,
            task.example_inputs,
            method=task.method,
            calibration_data=task.data if _takes_data(task.method, plan.effort) else None,
            qconfig=self.rules(plan),
            backend=task.backend,
            example_kwargs=task.example_kwargs,
            progress=False,
            effort=plan.effort,
        )

    def ranked(self) -> list[tuple[Plan, TrialOutcome]]:
        """The plans that were asked for, the best first; those without a score come last."""
        found = [(plan, self.record.outcomes.get(key)) for key, plan in self._tried.items()]
        known = [(plan, outcome) for plan, outcome in found if outcome is not None]
        return sorted(known, key=lambda pair: self._rank(pair[1]))

    def meets(self, outcome: TrialOutcome) -> bool:
        """Whether a model reaches the goal within the limits."""
        return self._reaches(outcome) and self.task.within(outcome)

    def model_of(self, plan: Plan) -> QuantizedModel:
        """The model of a plan: kept, or made again."""
        for kept in (self._best, self._spare):
            if kept is not None and kept[0] == plan:
                return kept[1]
        return self.make(plan)

    def prepare_first(self, plan: Plan) -> None:
        """Make a plan before anything is evaluated: what is wrong with arguments shows here."""
        if plan.key not in self.record.outcomes:
            self._spare = plan, self.make(plan)

    def _reaches(self, outcome: TrialOutcome) -> bool:
        return outcome.score is not None and outcome.score >= self.goal

    def _rank(self, outcome: TrialOutcome) -> tuple[float, ...]:
        """Smaller is better: within the limits, good enough, then bytes or score."""
        score = -math.inf if outcome.score is None else outcome.score
        fits, good = self.task.within(outcome), self._reaches(outcome)
        size = float(outcome.size or 0)
        tail = (size, -score) if good else (-score, size)
        return (float(outcome.score is None), float(not fits), float(not good), *tail)

    def _pay(self) -> None:
        """StopSearch if the budget is used up; the first trial is free of it."""
        scored = sum(o.score is not None or o.seconds > 0 for o in self.record.outcomes.values())
        if not scored:
            return
        most = self.task.most_trials
        if (most is not None and scored >= most) or self.out_of_time():
            raise StopSearch

    def _try(self, plan: Plan) -> TrialOutcome:
        began = time.perf_counter()
        size = milliseconds = score = None
        why = ""
        with self.record.trial(plan.key):
            try:
                model = self.model_of(plan)
                size = model.report.size_bytes[1]
                if self.task.max_ms is not None:
                    milliseconds = _milliseconds(model, self.task)
                score = _scored(self.task.evaluate, model)
            except Exception as error:
                if isinstance(error, Warning):
                    raise
                why = _said(error)
            seconds = time.perf_counter() - began
        found = TrialOutcome(score, size, milliseconds, seconds, why)
        if score is not None:
            self._keep(plan, model, found)
        return found

    def _keep(self, plan: Plan, model: QuantizedModel, found: TrialOutcome) -> None:
        """Hold on to the best model, and to no other."""
        known = None if self._best is None else self.record.outcomes.get(self._best[0].key)
        if known is None or self._rank(found) < self._rank(known):
            self._best = plan, model
        self._spare = None


def _takes_data(method: str, effort: str) -> bool:
    """Whether quantizing has a use for data: for ranges, or for what an effort adds."""
    make = getattr(pipelines, method)
    return method == "static" or str(make(effort=effort)) != str(make(effort="fast"))


def _scored(evaluate: Evaluate, module: nn.Module) -> float:
    value: object = evaluate(module)
    try:
        score = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(
            f"evaluate returned {type(value).__name__}; it must return a number, of which more is "
            "better"
        ) from None
    if math.isnan(score):
        raise ConfigError("evaluate returned NaN")
    return score


def _milliseconds(model: QuantizedModel, task: TuningTask) -> float | None:
    """Of a call on the fastest engine; None where that was not timed."""
    fast = compile_model(model, task.example_inputs, progress=False)
    return next((t.median_ms for t in fast.trials if t.name == fast.engine), None)


def _said(error: Exception) -> str:
    text = str(error) if isinstance(error, QfxError) else f"{type(error).__name__}: {error}"
    return text.strip() or type(error).__name__


_NO_BASELINE = (
    "evaluate could not tell the score of the float model, from which max_drop counts: {error}\n"
    "What to do: give min_score, or mend evaluate"
)
