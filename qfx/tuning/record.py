"""What a search knows, in a file from which another one goes on.

The file is JSON and is replaced in one step after everything that took time, so that whatever ends
a process loses no more than what was going on. A trial is noted before it begins: one that ended
the process twice is not begun again.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from qfx.errors import ConfigError, FormatError
from qfx.graph import meta
from qfx.graph.tensor_bytes import bytes_of
from qfx.storage.container import replacing
from qfx.storage.fields import Fields, number, parse_json, render_json
from qfx.tuning.sensitivity import CANDIDATES, PlaceNoise

_FORMAT, _VERSION = "qfx-tuning", 1
_MOST_TIMES = 2
_KILLED = "the process ended during this trial, twice"


@dataclass(frozen=True)
class TrialOutcome:
    """What came of a trial.

    Attributes:
        score: what ``evaluate`` returned; None where it has none.
        size: bytes; None where nothing was made.
        milliseconds: of a call; None where that was not asked for.
        seconds: that it took.
        why_not: why it has no score.
    """

    score: float | None
    size: int | None
    milliseconds: float | None
    seconds: float
    why_not: str = ""


@dataclass
class Record:
    """What is known so far; :meth:`write` keeps it.

    Attributes:
        path: the file; None keeps nothing.
        model: what tells the model and the way of quantizing apart from others.
        baseline: the score of the float model, and the seconds that took; None if not known.
        outcomes: by key of a plan, in the order of the trials.
        measured: by key of a place.
        begun: how often a trial began that did not end, by key of a plan.
    """

    path: Path | None
    model: str
    baseline: TrialOutcome | None = None
    outcomes: dict[str, TrialOutcome] = field(default_factory=dict)
    measured: dict[str, PlaceNoise] = field(default_factory=dict)
    begun: dict[str, int] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None, model: str) -> Record:
        """What a file holds, or nothing yet; trials that failed in an earlier run are forgotten.

        Raises:
            FormatError: the file is none of a search, or damaged.
            ConfigError: it belongs to another model, or to another way of quantizing this one.
            OSError: it can't be read or written.
        """
        if path is None:
            return cls(None, model)
        made = cls(Path(path), model)
        if made.path is not None and made.path.exists():
            made._read(Fields(parse_json(made.path.read_bytes(), f"state {path}"), f"state {path}"))
        made.write()  # so that a place that can't be written to is known before hours are spent
        return made

    @contextmanager
    def trial(self, key: str) -> Iterator[None]:
        """Note that a trial goes on; what ends this process is told by the note."""
        self.begun[key] = self.begun.get(key, 0) + 1
        self.write()
        try:
            yield
        finally:
            del self.begun[key]
            self.write()

    def write(self) -> None:
        """Replace the file in one step."""
        if self.path is None:
            return
        data = render_json(
            {
                "format": _FORMAT,
                "version": _VERSION,
                "model": self.model,
                "baseline": None if self.baseline is None else _written(self.baseline),
                "trials": [{"plan": k, **_written(o)} for k, o in self.outcomes.items()],
                "sensitivity": [
                    {
                        "site": key,
                        "int8": number(m.int8),
                        "int4": None if m.int4 is None else number(m.int4),
                        "observer": m.observer,
                    }
                    for key, m in self.measured.items()
                ],
                "begun": [{"plan": k, "times": n} for k, n in self.begun.items()],
            }
        )
        with replacing(self.path) as file:
            file.write(data)

    def _read(self, fields: Fields) -> None:
        fields.choice("format", (_FORMAT,))
        fields.integer("version", _VERSION, _VERSION)
        if fields.text("model") != self.model:
            raise ConfigError(
                f"state={str(self.path)!r} is of a search for another model, or with another "
                "method, backend or example inputs: give a path of its own, or delete the file"
            )
        if fields.has("baseline"):
            self.baseline = _outcome(fields.record("baseline"))
        fields.any("baseline")
        for row in fields.records("trials"):
            key, outcome = row.text("plan"), _outcome(row)
            if (outcome.score is not None and outcome.size is None) or key in self.outcomes:
                raise FormatError(f"{row.place}: a score of no model, or a second one of a plan")
            if outcome.score is not None:
                self.outcomes[key] = outcome
        for row in fields.records("sensitivity"):
            int4 = row.number("int4") if row.has("int4") else None
            row.any("int4")
            observer = row.choice("observer", ("", *CANDIDATES))
            self.measured[row.text("site")] = PlaceNoise(row.number("int8"), int4, observer)
            row.close()
        for row in fields.records("begun"):
            key, times = row.text("plan"), row.integer("times", 1)
            row.close()
            self.begun[key] = times
            if times >= _MOST_TIMES:
                self.outcomes[key] = TrialOutcome(None, None, None, 0.0, _KILLED)
        fields.close()


def _written(outcome: TrialOutcome) -> dict[str, Any]:
    return {
        "score": None if outcome.score is None else number(outcome.score),
        "size": outcome.size,
        "milliseconds": outcome.milliseconds,
        "seconds": outcome.seconds,
        "why_not": outcome.why_not,
    }


def _outcome(fields: Fields) -> TrialOutcome:
    score = fields.number("score") if fields.has("score") else None
    made = TrialOutcome(
        score,
        fields.integer("size") if fields.has("size") else None,
        fields.number("milliseconds") if fields.has("milliseconds") else None,
        fields.number("seconds"),
        fields.text("why_not"),
    )
    for name in ("score", "size", "milliseconds", "plan"):
        fields.any(name)
    fields.close()
    if score is not None and score != score:
        raise FormatError(f"{fields.place}.score: is no score")
    times = (made.seconds, made.milliseconds or 0.0)
    if not all(math.isfinite(each) and each >= 0 for each in times):
        raise FormatError(f"{fields.place}: a time is infinite, or less than none")
    return made


def told_apart(model: nn.Module, call: tuple[Any, Any], *settings: object) -> str:
    """A digest of the weights of a model, what it is called with, and settings."""
    hashed = hashlib.sha256()
    given = meta.describe(call[0]), meta.describe(dict(call[1]))
    hashed.update(repr((type(model).__qualname__, given, settings)).encode())
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            with bytes_of(tensor.detach().cpu().contiguous()) as view:
                hashed.update(view)
    return hashed.hexdigest()
