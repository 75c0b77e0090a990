"""Choice by measurement: build each engine, hold it against the reference, time all in turns.

Whatever an engine does - it raises, hangs, yields NaN or noise - leaves it out, and says why.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from qfx.engines.agreement import (
    AGREES,
    Agreement,
    HoldsAgainst,
    compare,
    floor,
    least_of,
    reason_against,
    run_reference,
)
from qfx.engines.assembly import Assembly, assemble, plan_for
from qfx.engines.base import CannotRun, Engine, PieceEngine, Settings, WholeEngine
from qfx.engines.eager import Eager
from qfx.engines.pieces import Plan
from qfx.engines.source import Source
from qfx.engines.trials import Trial
from qfx.engines.workers import Overdue, Worker
from qfx.errors import QfxError
from qfx.export.onnx.forms import Form
from qfx.graph.overlap import version

_ROUNDS, _TURN, _MOST_CALLS = 7, 0.03, 100
"""How often each is woken, and for how many seconds or calls, whichever ends first."""

_LEAST_ROUNDS, _ENOUGH = 4, 0.4
"""So many rounds do where all of them took so many seconds."""

_COLD = 0.01
"""Seconds of a call from where on it need not be warmed up in each turn."""

_PAUSE = 0.01
"""Seconds before each turn, for the threads of the one before to go to sleep."""

_PATIENCE = 50
"""How many times as long as a first run calls may take before they count as hanging."""

_PAYS = 1.05
"""How many times as fast a program for the examples' sizes alone must be to be kept."""


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
    form: Form
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

    def trial(self) -> Trial:
        """The row of the table."""
        several = isinstance(self.engine, PieceEngine)
        timed = 1e3 * self.median if self.times else None
        return Trial(
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


@dataclass(frozen=True)
class Choice:
    """What is kept.

    Attributes:
        engine: its name.
        assembly: runs the model.
        trials: a row for each engine.
        least: the least ratio in dB for programs of other sizes: as far below that of the examples
            as engines may lie below the floor.
    """

    engine: str
    assembly: Assembly
    trials: tuple[Trial, ...]
    least: float = AGREES


class Choosing:
    """Tries engines on one model.

    Args:
        source: the model.
        threads: that engines may use for a call.
        dynamic: whether other sizes than those of the examples are to work.
    """

    def __init__(self, source: Source, threads: int, *, dynamic: bool) -> None:
        self._source, self._dynamic = source, dynamic
        self._settings = Settings(threads)
        arguments = source.fresh_arguments()
        before = _versions(arguments)
        with source.undisturbed():
            self._wanted = run_reference(source.reference, arguments)
        self._writes = _versions(arguments) != before
        self._least: float | None = None
        self._plans: dict[str, Plan] = {}

    def choose(self, engines: Sequence[Engine], progress: Any) -> Choice:
        """Build, check and time engines; the fastest that agrees is kept.

        Args:
            engines: which to try, in order.
            progress: is told the name of each.
        """
        rows: dict[str, list[Candidate]] = {}
        with ExitStack() as stack:
            for engine in progress(engines):
                lacks = engine.lacks()
                rows[engine.name] = []
                if not lacks:
                    rows[engine.name] = list(self._candidates(engine, stack))
            running = [c for row in rows.values() for c in row if not c.why_not]
            self._time(running)
            best = {name: min(row, key=_rank) for name, row in rows.items() if row}
            fit = [c for c in best.values() if not c.why_not]
            trials = tuple(
                best[e.name].trial() if e.name in best else Trial(e.name, why_not=e.lacks())
                for e in engines
            )
            if not fit:
                raise CannotRun("\n".join(f"  {t.name}: {t.why_not}" for t in trials))
            chosen = min(fit, key=_rank)
            self._specialize(chosen, stack)
        for plan in self._plans.values():
            for piece in plan.pieces:
                piece.notes.clear()
        assert chosen.assembly is not None
        least = least_of(chosen.found.sqnr)
        for runner in chosen.assembly.runners:
            runner.hold(HoldsAgainst(least))
        return Choice(chosen.engine.name, chosen.assembly, trials, least)

    # -- building and checking --------------------------------------------------------------------
    def _candidates(self, engine: Engine, stack: ExitStack) -> Iterator[Candidate]:
        """Every form of an engine, built and held against the reference."""
        worker = Worker(engine.name)
        stack.callback(worker.close)
        try:
            forms = worker.do(lambda: self._forms(engine), engine.deadline)
        except Exception as error:  # whatever an engine raises
            yield _failed(Candidate(engine, Form.EXACT, worker), error)
            return
        for form in forms:
            candidate = Candidate(engine, form, worker)
            self._try(candidate, free=self._dynamic)
            if candidate.why_not and self._dynamic and isinstance(engine, PieceEngine):
                again = Candidate(engine, form, worker)
                if candidate.why_not != _OVERDUE:
                    self._try(again, free=False)
                candidate = candidate if again.why_not or again.assembly is None else again
            yield candidate
            if candidate.why_not == _OVERDUE:
                return  # its thread is lost

    def _forms(self, engine: Engine) -> Sequence[Form]:
        if self._source.written and not isinstance(engine, Eager):
            names = ", ".join(self._source.written[:3])
            raise CannotRun(f"the model writes to {names}; only eager keeps state")
        if not isinstance(engine, PieceEngine):
            return (Form.EXACT,)
        return max((engine.forms(piece) for piece in self._plan(engine).pieces), key=len)

    def _plan(self, engine: PieceEngine) -> Plan:
        """The pieces of an engine; engines that take the same share them."""
        key = engine.family or engine.name
        if key not in self._plans:
            self._plans[key] = plan_for(engine, self._source.reference)
        return self._plans[key]

    def _try(self, candidate: Candidate, *, free: bool) -> None:
        """Build a candidate and run it once; what goes wrong puts it out of the running."""
        deadline = candidate.engine.deadline
        try:
            start = time.perf_counter()
            candidate.assembly = candidate.worker.do(
                lambda: self._assembly(candidate.engine, candidate.form, free=free), deadline
            )
            candidate.seconds = time.perf_counter() - start
            made = candidate.worker.do(lambda: self._call(candidate), deadline)
            start = time.perf_counter()
            candidate.worker.do(lambda: self._call(candidate), deadline)
            candidate.first = time.perf_counter() - start
        except Exception as error:  # whatever an engine raises
            _failed(candidate, error)
            return
        candidate.found = compare(self._wanted, made)
        if not isinstance(candidate.engine, Eager):
            candidate.fail(self._against(candidate.found))

    def _assembly(self, engine: Engine, form: Form, *, free: bool) -> Assembly:
        settings = replace(self._settings, form=form)
        if isinstance(engine, WholeEngine):
            return Assembly(engine.wrap(self._source.model, settings, dynamic=self._dynamic))
        assert isinstance(engine, PieceEngine)
        holds = HoldsAgainst(AGREES)  # until it is known how far it is for the examples
        plan = self._plan(engine)
        return assemble(engine, self._source.reference, plan, settings, holds, free=free)

    def _call(self, candidate: Candidate) -> Any:
        assert candidate.assembly is not None
        args, kwargs = self._source.fresh()
        with self._source.undisturbed():
            return candidate.assembly.forward(*args, **kwargs)

    def _against(self, found: Agreement) -> str:
        """Why results don't agree; the floor is looked at only where it matters."""
        if not reason_against(found, AGREES):
            return ""
        if self._least is None:
            source = self._source
            with source.undisturbed():
                self._least = least_of(
                    floor(source.reference, source.fresh_arguments(), self._wanted)
                )
        return reason_against(found, self._least)

    # -- timing -----------------------------------------------------------------------------------
    def _time(self, candidates: Sequence[Candidate]) -> None:
        """Time candidates in turns, after a call that is not counted."""
        if not candidates:
            return
        for number in range(_ROUNDS):
            timed = [sum(c.times) for c in candidates if not c.why_not]
            if number >= _LEAST_ROUNDS and min(timed, default=0.0) >= _ENOUGH:
                break
            for index in range(len(candidates)):
                candidate = candidates[(index + number) % len(candidates)]
                if candidate.why_not:
                    continue
                time.sleep(_PAUSE)
                try:
                    self._turn(candidate)
                except Exception as error:  # whatever an engine raises
                    _failed(candidate, error)

    def _turn(self, candidate: Candidate) -> None:
        deadline = max(5.0, _PATIENCE * candidate.first)
        assert candidate.assembly is not None
        forward = candidate.assembly.forward
        given = self._source.fresh if self._writes else self._source.call

        def run() -> list[float]:
            if candidate.first < _COLD:
                args, kwargs = given()
                forward(*args, **kwargs)
            times: list[float] = []
            end = time.perf_counter() + _TURN
            while not times or (len(times) < _MOST_CALLS and time.perf_counter() < end):
                args, kwargs = given()
                start = time.perf_counter()
                forward(*args, **kwargs)
                times.append(time.perf_counter() - start)
            return times

        with self._source.undisturbed():
            candidate.times += candidate.worker.do(run, deadline)

    def _specialize(self, chosen: Candidate, stack: ExitStack) -> None:
        """Keep a program for the examples' sizes alone, if it pays beside that for all."""
        if not self._dynamic or not isinstance(chosen.engine, PieceEngine):
            return
        assert chosen.assembly is not None
        if not any(runner.is_free for runner in chosen.assembly.runners):
            return
        fixed = Candidate(chosen.engine, chosen.form, chosen.worker)
        self._try(fixed, free=False)
        if fixed.why_not or fixed.assembly is None:
            return
        free = replace(chosen, times=[])
        self._time([free, fixed])
        if fixed.why_not or fixed.median * _PAYS > free.median:
            return
        pairs = zip(chosen.assembly.runners, fixed.assembly.runners, strict=True)
        for runner, other in pairs:
            runner.prefer(other)


_OVERDUE = "hangs"


def _failed(candidate: Candidate, error: Exception) -> Candidate:
    """Say what an engine raised, in a line."""
    if isinstance(error, Overdue):
        candidate.fail(_OVERDUE)
        return candidate
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    known = isinstance(error, (CannotRun, QfxError))
    candidate.fail(text if known else f"raises {type(error).__name__}: {text}")
    return candidate


def _versions(arguments: Mapping[str, Any]) -> list[int]:
    """How often each tensor among arguments was written to."""
    leaves = pytree.tree_leaves(arguments)
    return [version(leaf) for leaf in leaves if isinstance(leaf, Tensor)]


def _rank(candidate: Candidate) -> tuple[bool, float]:
    return bool(candidate.why_not), candidate.median
