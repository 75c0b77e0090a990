"""What a search for the best model tried: a table of trials, and a picture of bytes and scores."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qfx.report.pareto import Point, front, picture
from qfx.table import byte_count, table


@dataclass(frozen=True)
class TuningTrial:
    """A model that was tried.

    Attributes:
        number: counted from 1; 0 is the float model.
        effort: what quantizing was allowed to cost; "" of the float model.
        observers: "default", or "per site" where each site has the observer that errs least there.
        int4: labels of the layers whose weights have 4 bits.
        floats: labels of the operations that were left float.
        score: what ``evaluate`` returned; None where it has none.
        size: bytes as ``report.size_bytes`` counts them; None where nothing was made.
        milliseconds: of a call on the fastest engine; None where that was not asked for.
        seconds: that quantizing and evaluating took.
        meets: whether it reaches the goal within the limits.
        why_not: why it has no score; "" where it has one.
    """

    number: int
    effort: str
    observers: str
    int4: tuple[str, ...]
    floats: tuple[str, ...]
    score: float | None
    size: int | None
    milliseconds: float | None
    seconds: float
    meets: bool
    why_not: str = ""

    @property
    def what(self) -> str:
        """The model in a few words."""
        if self.number == 0:
            return "float"
        parts = ["int8"]
        parts += [f"{len(self.int4)} in 4 bits"] if self.int4 else []
        parts += [f"{len(self.floats)} float"] if self.floats else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Sensitivity:
    """What rounding one site, and nothing else, does to the output of the model.

    Attributes:
        label: the site, as the report has it.
        int8: noise over signal of the output with what it reads in 8 bits; NaN if not measured.
        int4: the same with its weight in 4 bits; None where that is no choice.
        observer: the observer with which what it reads errs least; "" where there is no choice.
        elements: of its weights.
    """

    label: str
    int8: float
    int4: float | None
    observer: str
    elements: int


@dataclass(frozen=True)
class Tuning:
    """What :func:`qfx.tune` tried; ``print()`` shows a table, the best is marked.

    Attributes:
        trials: the quantized models, in the order in which they were tried.
        baseline: the float model.
        goal: the score that was asked for.
        best: the trial that was returned.
        met: whether it reaches the goal within the limits.
        stopped: why the search ended: "finished", "budget" or "interrupted".
        sensitivity: of every site, the most sensitive first.
    """

    trials: tuple[TuningTrial, ...]
    baseline: TuningTrial
    goal: float
    best: TuningTrial
    met: bool
    stopped: str
    sensitivity: tuple[Sensitivity, ...] = ()

    def __len__(self) -> int:
        return len(self.trials)

    def __iter__(self) -> Iterator[TuningTrial]:
        return iter(self.trials)

    def __getitem__(self, place: int) -> TuningTrial:
        return self.trials[place]

    @property
    def pareto(self) -> tuple[TuningTrial, ...]:
        """The trials that no other beats in both bytes and score, by bytes."""
        scored = [t for t in self.trials if t.score is not None and t.size is not None]
        return tuple(scored[i] for i in front([_point(t) for t in scored]))

    def __str__(self) -> str:
        return "\n".join((*self._summary(), "", _table((self.baseline, *self.trials), self.best)))

    def _summary(self) -> Iterator[str]:
        reached = "met" if self.met else "not met"
        yield f"Goal: a score of {_number(self.goal)} or more: {reached}"
        yield f"Best: {self.best.what}, score {_number(self.best.score)}, {_size(self.best)}"
        yield f"Search: {len(self.trials)} trials, {_ENDS.get(self.stopped, self.stopped)}"
        worst = [s for s in self.sensitivity if not math.isnan(s.int8)][:3]
        if worst:
            yield f"Most sensitive: {', '.join(s.label for s in worst)}"

    def to_svg(self, path: str | os.PathLike[str]) -> Path:
        """Draw bytes against scores, with the goal and the front, and return the path."""
        shown = [t for t in (self.baseline, *self.trials) if t.score is not None and t.size]
        points = [_point(t) for t in shown]
        best = next((i for i, t in enumerate(shown) if t is self.best), None)
        page = Path(path)
        page.write_text(picture(points, self.goal, best), encoding="utf-8")
        return page


_ENDS = {
    "finished": "there is nothing left to try",
    "budget": "the budget is used up",
    "interrupted": "interrupted",
}

_HEADER = ("", "model", "effort", "observers", "score", "size", "ms", "s", "")


def _table(trials: Sequence[TuningTrial], best: TuningTrial) -> str:
    rows = [_row(trial, trial is best) for trial in trials]
    kept = [i for i, name in enumerate(_HEADER) if name != "ms" or any(row[i] for row in rows)]
    header = [_HEADER[i] for i in kept]
    return table(header, [[row[i] for i in kept] for row in rows], right=("score", "size", "ms"))


def _row(trial: TuningTrial, is_best: bool) -> list[str]:
    said = trial.why_not or ("meets the goal" if trial.meets and trial.number else "")
    return [
        str(trial.number) if trial.number else "-",
        trial.what,
        trial.effort,
        trial.observers,
        _number(trial.score),
        _size(trial),
        "" if trial.milliseconds is None else f"{trial.milliseconds:.3g}",
        f"{trial.seconds:.1f}",
        "; ".join(filter(None, ("best" if is_best else "", said.splitlines()[0] if said else ""))),
    ]


def _number(score: float | None) -> str:
    return "" if score is None else f"{score:.6g}"


def _size(trial: TuningTrial) -> str:
    return "" if trial.size is None else byte_count(trial.size)


def _point(trial: TuningTrial) -> Point:
    assert trial.size is not None
    assert trial.score is not None
    return Point(trial.size, trial.score, f"{trial.number}: {trial.what}", trial.meets)
