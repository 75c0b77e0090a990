"""Choice by measurement: build each engine, hold it against the reference, time all in turns.

Whatever an engine does - it raises, hangs, yields NaN or noise - leaves it out, and says why.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from qfx.engines.agreement import AGREES, HoldsAgainst, compare, least_of
from qfx.engines.assembly import Assembly, assemble, plan_for
from qfx.engines.base import BuildSettings, CannotRun, Engine, PieceEngine, WholeEngine
from qfx.engines.candidates import OVERDUE, Candidate, failed, rank
from qfx.engines.eager import Eager
from qfx.engines.machine import cores
from qfx.engines.pieces import Partition
from qfx.engines.source import Source
from qfx.engines.timing import ROUNDS, time_in_turns
from qfx.engines.trials import EngineTrial
from qfx.engines.workers import Job, Worker
from qfx.engines.yardstick import Yardstick
from qfx.export.onnx.forms import OnnxForm
from qfx.torch_private import pytree

_PAYS = 1.05
"""How many times as fast a program for the examples' sizes alone must be to be kept."""

_LANES = 2
"""How many forms are built side by side, each of which may hold all weights more than once."""


@dataclass(frozen=True)
class EngineChoice:
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
    trials: tuple[EngineTrial, ...]
    least: float = AGREES


@dataclass(frozen=True)
class BuiltAs:
    """What was built of an engine.

    Attributes:
        form: of its graphs.
        free: for each program of a piece, whether it is one for all sizes; that for the examples'
            alone comes last.
    """

    form: OnnxForm
    free: tuple[bool, ...]

    @staticmethod
    def of(choice: EngineChoice) -> BuiltAs:
        """What stands behind a choice."""
        (trial,) = [each for each in choice.trials if each.name == choice.engine]
        form = OnnxForm(trial.form) if trial.form else OnnxForm.EXACT
        made = [runner.programs for runner in choice.assembly.runners]
        kinds = (True,) * any(m.free is not None for m in made)
        kinds += (False,) * any(m.own is not None for m in made)
        return BuiltAs(form, kinds or (True,))


class Choosing:
    """Tries engines on one model.

    Args:
        source: the model.
        settings: how engines are asked to build.
        dynamic: whether other sizes than those of the examples are to work.
    """

    def __init__(self, source: Source, settings: BuildSettings, *, dynamic: bool) -> None:
        self._source, self._dynamic = source, dynamic
        self._settings = settings
        self._yardstick = Yardstick(source)
        self._writes = self._yardstick.writes
        self._plans: dict[str, Partition] = {}

    def choose(self, engines: Sequence[Engine], progress: Any) -> EngineChoice:
        """Build, check and time engines; the fastest that agrees is kept.

        Args:
            engines: which to try, in order.
            progress: is told the name of each.
        """
        rows: dict[str, list[Candidate]] = {}
        with ExitStack() as stack:
            for engine in progress(engines):
                lacks = engine.lacks()
                rows[engine.name] = [] if lacks else self._candidates(engine, stack)
            running = [c for row in rows.values() for c in row if not c.why_not]
            time_in_turns(running, self._source, writes=self._writes)
            best = {name: min(row, key=rank) for name, row in rows.items() if row}
            fit = [c for c in best.values() if not c.why_not]
            trials = tuple(
                best[e.name].trial() if e.name in best else EngineTrial(e.name, why_not=e.lacks())
                for e in engines
            )
            if not fit:
                raise CannotRun("\n".join(f"  {t.name}: {t.why_not}" for t in trials))
            chosen = self._for_all_sizes(min(fit, key=rank))
        return self._choice(chosen, trials)

    def again(
        self, engine: Engine, built: BuiltAs, trials: tuple[EngineTrial, ...]
    ) -> EngineChoice:
        """Build what was chosen before, and nothing else.

        Args:
            engine: that was chosen.
            built: what was built of it.
            trials: from when it was chosen.

        Raises:
            CannotRun: it can't be built any more, or does not agree with the reference.
        """
        with ExitStack() as stack:
            made = [Candidate(engine, built.form, _worker(engine, stack)) for _ in built.free]
            for candidate, free in zip(made, built.free, strict=True):
                self._try([candidate], free=free)
                if candidate.why_not:
                    raise CannotRun(candidate.why_not)
        if len(made) > 1:
            _prefer(made[0], made[1])
        return self._choice(made[0], trials)

    def _choice(self, chosen: Candidate, trials: tuple[EngineTrial, ...]) -> EngineChoice:
        for plan in self._plans.values():
            for piece in plan.pieces:
                piece.notes.clear()
        assert chosen.assembly is not None
        least = least_of(chosen.found.sqnr)
        for runner in chosen.assembly.runners:
            runner.hold(HoldsAgainst(least))
        return EngineChoice(chosen.engine.name, chosen.assembly, trials, least)

    # -- building and checking --------------------------------------------------------------------
    def _candidates(self, engine: Engine, stack: ExitStack) -> list[Candidate]:
        """Every form of an engine, built and held against the reference."""
        worker = _worker(engine, stack)
        try:
            forms = worker.do(lambda: self._forms(engine), engine.deadline)
        except Exception as error:  # whatever an engine raises
            return [failed(Candidate(engine, OnnxForm.EXACT, worker), error)]
        wanted = [Candidate(engine, form, _worker(engine, stack)) for form in forms]
        found: list[Candidate] = []
        lanes = min(_LANES, cores())
        for first in range(0, len(wanted), lanes):
            together = wanted[first : first + lanes]
            self._try(together, free=False)
            found += map(self._or_free, together)
            if any(each.why_not == OVERDUE for each in together):
                break  # others would hang as well, on threads of their own
        return found

    def _forms(self, engine: Engine) -> Sequence[OnnxForm]:
        if self._source.written and not isinstance(engine, Eager):
            names = ", ".join(self._source.written[:3])
            raise CannotRun(f"the model writes to {names}; only eager keeps state")
        if not isinstance(engine, PieceEngine):
            return (OnnxForm.EXACT,)
        return max((engine.forms(piece) for piece in self._plan(engine).pieces), key=len)

    def _plan(self, engine: PieceEngine) -> Partition:
        """The pieces of an engine."""
        name = engine.name
        if name not in self._plans:
            plan = self._plans[name] = plan_for(engine, self._source.reference)
            for piece in plan.pieces:
                piece.seen = self._yardstick.seen
        return self._plans[name]

    def _try(self, candidates: Sequence[Candidate], *, free: bool) -> None:
        """Build candidates side by side, and run each; what goes wrong puts it out of the running.

        Args:
            candidates: each with a thread of its own.
            free: build programs for all sizes that a piece takes, else for those of the examples.
        """
        builds = [
            each.worker.begin(partial(self._build, each.engine, each.form, free=free))
            for each in candidates
        ]
        for candidate, build in zip(candidates, builds, strict=True):
            _finish(candidate, build)
        for candidate in candidates:
            if not candidate.why_not:
                self._check(candidate)

    def _check(self, candidate: Candidate) -> None:
        """Run a candidate twice, and hold it against the reference."""
        deadline = candidate.engine.deadline
        try:
            made = candidate.worker.do(lambda: self._call(candidate), deadline)
            start = time.perf_counter()
            candidate.worker.do(lambda: self._call(candidate), deadline)
            candidate.first = time.perf_counter() - start
        except Exception as error:  # whatever an engine raises
            failed(candidate, error)
            return
        candidate.found = compare(self._yardstick.wanted, made)
        if not isinstance(candidate.engine, Eager):
            form = candidate.form
            candidate.fail(self._yardstick.reason_against(candidate.found, made, form))

    def _build(self, engine: Engine, form: OnnxForm, *, free: bool) -> tuple[Assembly, float]:
        """What an engine makes of the model, and the seconds that took."""
        start = time.perf_counter()
        assembly = self._assembly(engine, form, free=free)
        return assembly, time.perf_counter() - start

    def _assembly(self, engine: Engine, form: OnnxForm, *, free: bool) -> Assembly:
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
            made = candidate.assembly.forward(*args, **kwargs)
        if not self._writes and not _are_equal((args, kwargs), self._source.call()):
            raise CannotRun("writes to its inputs")
        return made

    # -- programs for all sizes -------------------------------------------------------------------
    def _free(self, candidate: Candidate) -> Candidate:
        """The same with programs for all sizes that its pieces take."""
        free = Candidate(candidate.engine, candidate.form, candidate.worker)
        self._try([free], free=True)
        return free

    def _or_free(self, candidate: Candidate) -> Candidate:
        """What was tried; programs for all sizes, if those agree and its own don't."""
        if not self._dynamic or candidate.why_not in ("", OVERDUE):
            return candidate
        free = self._free(candidate)
        return candidate if free.why_not else free

    def _for_all_sizes(self, chosen: Candidate) -> Candidate:
        """What was chosen, with programs for all sizes, and its own only where they pay."""
        if not self._dynamic or chosen.assembly is None or not chosen.assembly.runners:
            return chosen
        if any(runner.is_free for runner in chosen.assembly.runners):
            return chosen
        free, own = self._free(chosen), replace(chosen, times=[])
        if free.why_not:
            return chosen
        time_in_turns([free, own], self._source, writes=self._writes, rounds=ROUNDS // 2)
        if free.why_not:
            return chosen
        if own.median * _PAYS <= free.median:
            _prefer(free, own)
        return free


def _worker(engine: Engine, stack: ExitStack) -> Worker:
    """A thread to try an engine on; it ends with the stack."""
    worker = Worker(engine.name)
    stack.callback(worker.close)
    return worker


def _finish(candidate: Candidate, build: Job[tuple[Assembly, float]]) -> None:
    """Wait for what an engine builds."""
    try:
        candidate.assembly, candidate.seconds = build.result(candidate.engine.deadline)
    except Exception as error:  # whatever an engine raises
        failed(candidate, error)


def _prefer(candidate: Candidate, own: Candidate) -> None:
    """Take programs for the examples' sizes from another candidate."""
    assert candidate.assembly is not None
    assert own.assembly is not None
    pairs = zip(candidate.assembly.runners, own.assembly.runners, strict=True)
    for runner, other in pairs:
        runner.prefer(other)


def _are_equal(given: object, other: object) -> bool:
    """Whether the tensors among arguments hold the same numbers."""
    pairs = zip(pytree.tree_leaves(given), pytree.tree_leaves(other), strict=True)
    tensors = ((a, b) for a, b in pairs if isinstance(a, Tensor))
    return all(torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True) for a, b in tensors)
