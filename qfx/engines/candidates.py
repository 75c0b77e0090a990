"""What is tried: a form of an engine, what was built of it, and what came of that."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median

from qfx.engines.agreement import Agreement
from qfx.engines.assembly import Assembly
from qfx.engines.base import CannotRun, Engine, PieceEngine
from qfx.engines.trials import EngineTrial
from qfx.engines.workers import Overdue, Worker
from qfx.errors import QfxError
from qfx.export.onnx.forms import OnnxForm

OVERDUE = "hangs"


@dataclass
class Candidate:
    """A form of an engine, built and run.

    Attributes:
        engine: whose.
        form: of its graphs.
        worker: the thread that it runs on while it is tried.
        assembly: what was built.
        seconds: that building took.
        found: how far it is from the reference.
        first: seconds of its second run.
        times: seconds of calls, all rounds.
        why_not: why it is out; "" if it is not.
    """

    engine: Engine
    form: OnnxForm
    worker: Worker
    assembly: Assembly | None = None
    seconds: float | None = None
    found: Agreement = field(default_factory=lambda: Agreement(math.nan, math.nan))
    first: float = 0.0
    times: list[float] = field(default_factory=list)
    why_not: str = ""

    @property
    def median(self) -> float:
        """Seconds of a call; infinite if it was not timed."""
        return median(self.times) if self.times else math.inf

    def fail(self, why: str) -> None:
        """Put it out of the running."""
        self.why_not = self.why_not or why

    def trial(self) -> EngineTrial:
        """The row of the table."""
        several = isinstance(self.engine, PieceEngine)
        timed = 1e3 * self.median if self.times else None
        return EngineTrial(
            self.engine.name,
            self.engine.version(),
            self.form.value if several else "",
            timed,
            1e3 * min(self.times) if self.times else None,
            self.found.sqnr,
            self.found.max_error,
            self.seconds,
            None if self.assembly is None else self.assembly.inside,
            self.why_not,
        )


def failed(candidate: Candidate, error: Exception) -> Candidate:
    """Say what an engine raised, in a line."""
    if isinstance(error, Overdue):
        candidate.fail(OVERDUE)
        return candidate
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    known = isinstance(error, (CannotRun, QfxError))
    candidate.fail(text if known else f"raises {type(error).__name__}: {text}")
    return candidate


def rank(candidate: Candidate) -> tuple[bool, float]:
    """Orders candidates: those that are right first, and the fastest first.

    A form that rounds more must be faster by so much that it is no accident.
    """
    steps = _STEPS.get(candidate.form, 2)
    return bool(candidate.why_not), candidate.median * _PAYS**steps


_PAYS, _STEPS = 1.03, {OnnxForm.EXACT: 0, OnnxForm.INTEGER: 1, OnnxForm.BFLOAT16: 1}
