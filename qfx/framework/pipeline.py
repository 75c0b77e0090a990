"""A pipeline: a literal tuple of passes, checked when it is built.

    pipeline = qfx.pipelines.static(backend="x86").insert_after("fuse-conv-bn", MyPass())

Editing gives a new pipeline; printing gives a list. The marker ``calibrate`` splits it in what
prepares a model and what converts it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Protocol, TypeAlias, TypeGuard

from qfx.errors import ConfigError
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass, as_pass


class Target(Protocol):
    """What a pipeline is made for: a backend, of which only the name matters here."""

    @property
    def name(self) -> str:
        """What users call it."""


@dataclass(frozen=True)
class Marker:
    """A place in a pipeline where something happens that is not a pass."""

    name: str

    def __str__(self) -> str:
        return self.name


CALIBRATE = Marker("calibrate")
"""Where data runs through the model, or training happens."""

PipelineStep: TypeAlias = "Pass | Marker"


@dataclass(frozen=True, eq=False)
class Pipeline:
    """Passes in order.

    Two are equal where the same passes, with the same options, run in the same order from the same
    level. What they were made for is not compared, and not printed: it only says which calls may
    use them.

    Attributes:
        passes: passes (instances, or classes that need no options) and markers.
        start: the level of the graph it starts from.
        backend: the backend it was made for; None inherits that of the call.
        method: the method it was made for ("static", ...), or None.
        brought: the passes that its backend brings; they run right after lowering.
        left_out: names of steps that were left out: a backend does not bring them back.

    Raises:
        ConfigError: the order cannot work; the message names the passes.
    """

    passes: tuple[PipelineStep, ...]
    start: Level = Level.CAPTURED
    backend: str | Target | None = None
    method: str | None = None
    brought: tuple[Pass, ...] = ()
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        steps = tuple(p if isinstance(p, Marker) else as_pass(p) for p in self.passes)
        object.__setattr__(self, "passes", steps)
        if steps.count(CALIBRATE) > 1:
            raise ConfigError("a pipeline calibrates once; remove all but one `calibrate`")
        check_levels(steps, self.start)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pipeline):
            return NotImplemented
        return (self.start, self._whole().passes) == (other.start, other._whole().passes)

    def __hash__(self) -> int:
        return hash((self.start, *(step.name for step in self._whole().passes)))

    def __iter__(self) -> Iterator[PipelineStep]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)

    def __contains__(self, name: object) -> bool:
        return any(step.name == name or step is name for step in self.passes)

    def __getitem__(self, name: str) -> PipelineStep:
        return self.passes[self._find(name)]

    def __str__(self) -> str:
        """One step a line, those that the backend brings among them."""
        return "\n".join(map(str, self._whole().passes))

    @property
    def end(self) -> Level:
        """The level of the graph after the last pass."""
        return check_levels(self.passes, self.start)

    def insert_after(self, name: str, step: PipelineStep | type[Pass]) -> Pipeline:
        """With ``step`` right after the step called ``name``."""
        found = self._holding(name)
        at = found._find(name) + 1
        return found._with((*found.passes[:at], _as_step(step), *found.passes[at:]))

    def insert_before(self, name: str, step: PipelineStep | type[Pass]) -> Pipeline:
        """With ``step`` right before the step called ``name``."""
        found = self._holding(name)
        at = found._find(name)
        return found._with((*found.passes[:at], _as_step(step), *found.passes[at:]))

    def replace(self, name: str, step: PipelineStep | type[Pass]) -> Pipeline:
        """With ``step`` in place of the step called ``name``."""
        found = self._holding(name)
        at = found._find(name)
        _check_replaceable(found.passes[at])
        return found._with((*found.passes[:at], _as_step(step), *found.passes[at + 1 :]))

    def without(self, name: str) -> Pipeline:
        """Without the step called ``name``, or without the part of a step that is called so.

        ``without("expand-attention")`` leaves that family out of ``canonicalize``.
        """
        for at, step in enumerate(self.passes):
            if isinstance(step, Pass) and name in step.parts:
                return self._with((*self.passes[:at], step.without(name), *self.passes[at + 1 :]))
        found = self._holding(name)
        at = found._find(name)
        _check_replaceable(found.passes[at])
        kept = (*found.passes[:at], *found.passes[at + 1 :])
        return replace(self, passes=kept, left_out=(*self.left_out, found.passes[at].name))

    def with_passes_at(self, level: Level, passes: tuple[Pass, ...]) -> Pipeline:
        """With ``passes`` right after the step that takes the graph to ``level``, if there is one.

        Those that the pipeline names itself stay where it has them, and what was left out stays so.
        """
        at = next((i for i, p in enumerate(self.passes, 1) if _reaches(p, level)), None)
        known = {*self.left_out, *(step.name for step in self.passes)}
        added = tuple(step for step in passes if step.name not in known)
        if at is None or not added:
            return self
        return self._with((*self.passes[:at], *added, *self.passes[at:]))

    def split(self) -> tuple[Pipeline, Pipeline]:
        """What comes before ``calibrate``, and what comes after; all is before if it is absent."""
        at = self.passes.index(CALIBRATE) if CALIBRATE in self.passes else len(self.passes)
        before = self._with(self.passes[:at])
        return before, replace(self, passes=self.passes[at + 1 :], start=before.end)

    def reconcile(self, backend: str | Target) -> str | Target:
        """The backend to use for a call that asks for ``backend``.

        Raises:
            ConfigError: the pipeline was made for another.
        """
        if self.backend is None:
            return backend
        wanted, own = _backend_name(backend), _backend_name(self.backend)
        if wanted in ("auto", own):
            return self.backend if isinstance(backend, str) else backend
        raise ConfigError(
            f'the pipeline was made for backend "{own}" and the call asks for "{wanted}"; leave '
            "one of them out, or make them the same"
        )

    def _whole(self) -> Pipeline:
        """With the passes that the backend brings written out."""
        return self.with_passes_at(Level.LOWERED, self.brought)

    def _holding(self, name: str) -> Pipeline:
        """As :meth:`_whole`, if it is one of those that ``name`` asks for."""
        return self._whole() if name in {step.name for step in self.brought} else self

    def _with(self, passes: tuple[PipelineStep, ...]) -> Pipeline:
        return replace(self, passes=passes)

    def _find(self, name: str) -> int:
        wanted = name if isinstance(name, str) else getattr(name, "name", name)
        found = [i for i, step in enumerate(self.passes) if step.name == wanted]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(f"the pipeline has {len(found)} passes called {wanted!r}")
        raise ConfigError(f"the pipeline has no pass called {wanted!r}; {self._hint(str(wanted))}")

    def _hint(self, wanted: str) -> str:
        """What there is in place of a step that is missing."""
        parts = [part for step in self.passes if _has_parts(step) for part in step.parts]
        near = get_close_matches(wanted, [*(step.name for step in self.passes), *parts], n=3)
        if near:
            return f"did you mean {', '.join(near)}?"
        of = (f"{s.name} ({', '.join(s.parts)})" for s in self.passes if _has_parts(s))
        names = ", ".join(step.name for step in self.passes)
        return f"it has: {'; parts of '.join((names, *of))}" if names else "it is empty"


def check_levels(steps: tuple[PipelineStep, ...], start: Level) -> Level:
    """The level after ``steps``.

    A pass fits where the graph has reached what it requires, and has not got past what it produces.

    Raises:
        ConfigError: a pass does not fit; the message names it and the pass that is in its way.
    """
    level, reached_by = start, ""
    for position, step in enumerate(steps):
        if isinstance(step, Marker):
            continue
        if step.requires is not None and level < step.requires:
            early = _too_early(step, level, steps[position + 1 :])
            raise ConfigError(early, pass_name=step.name)
        if _too_late(step, level):
            wanted = step.produces if step.produces is not None else step.requires
            by = f"{reached_by} has" if reached_by else "it is"
            remedy = f"put {step.name} before {reached_by}" if reached_by else "leave it out"
            raise ConfigError(
                f"pass {step.name} works on the way to level {wanted}, and {by} already "
                f"{'taken the graph to' if reached_by else 'at'} {level} before it; {remedy}",
                pass_name=step.name,
            )
        if step.produces is not None and step.produces > level:
            level, reached_by = step.produces, step.name
    return level


def _too_late(step: Pass, level: Level) -> bool:
    if step.produces is not None:
        return level > step.produces
    return step.requires is Level.CAPTURED and level > Level.CAPTURED


def _too_early(step: Pass, level: Level, later: tuple[PipelineStep, ...]) -> str:
    makers = [s.name for s in later if isinstance(s, Pass) and s.produces == step.requires]
    start = f"pass {step.name} needs a graph at level {step.requires}, and it is at {level} there"
    if makers:
        return f"{start}; {makers[0]} comes later: put {step.name} after {makers[0]}"
    return f"{start}; no pass of the pipeline takes it to {step.requires}"


def _check_replaceable(step: PipelineStep) -> None:
    if isinstance(step, Marker):
        raise ConfigError(
            f"`{step}` is where data runs through the model, no pass: a pipeline can't do without. "
            "To run passes alone use qfx.run_passes, or the halves of pipeline.split()"
        )


def _reaches(step: PipelineStep, level: Level) -> bool:
    return isinstance(step, Pass) and step.produces is level


def _has_parts(step: PipelineStep) -> TypeGuard[Pass]:
    return isinstance(step, Pass) and bool(step.parts)


def _as_step(step: PipelineStep | type[Pass]) -> PipelineStep:
    return step if isinstance(step, Marker) else as_pass(step)


def _backend_name(backend: str | Target) -> str:
    return backend if isinstance(backend, str) else backend.name
