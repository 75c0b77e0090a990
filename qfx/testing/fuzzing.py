"""``fuzz``: a pass over many generated models; what fails is shrunk to a script.

Held against each model: the pass raises nothing, leaves a graph that verifies, computes what it
computed before (where it keeps values), and does not touch the model that it was given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from qfx.custom_passes import run_passes
from qfx.errors import QfxError, warn
from qfx.framework.pass_base import Pass, PatternPass, as_pass
from qfx.framework.registry import list_passes
from qfx.history.history import History
from qfx.testing.checking import assert_unchanged
from qfx.testing.drawing import generate
from qfx.testing.phrases import phrases_of
from qfx.testing.programs import Program

_MOST_TRIALS = 200


class FuzzError(AssertionError):
    """A pass failed on a generated model.

    Attributes:
        program: the model, as small as it could be made.
        error: what happened to it.
        script: Python text that shows it.
    """

    def __init__(self, program: Program, error: Exception, script: str) -> None:
        super().__init__(f"{type(error).__name__}: {error}\n\n{script}")
        self.program, self.error, self.script = program, error, script


@dataclass
class Fuzzed:
    """What a run over generated models came to.

    Attributes:
        programs: how many models there were.
        fired: how often each rule of the passes made or removed nodes.
        idle: the rules that never did: nothing is known of what they make.
    """

    programs: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    idle: tuple[str, ...] = ()

    def __str__(self) -> str:
        rules = ", ".join(f"{rule} x{n}" for rule, n in self.fired.most_common())
        idle = f"; never: {', '.join(self.idle)}" if self.idle else ""
        return f"{self.programs} models; rules fired: {rules or 'none'}{idle}"


def fuzz(
    passes: Pass | type[Pass] | Sequence[Pass | type[Pass]],
    seeds: Iterable[int] = range(100),
    *,
    max_steps: int = 8,
    make: Callable[[int, int], Program] | None = None,
    watch: Callable[[History], None] | None = None,
) -> Fuzzed:
    """Run passes over a generated model for each seed.

    Layers, activations, sums, norms, pooling and rearrangements follow each other at random; what
    rules of arithmetic apply to is written in between, as their patterns tell. Where no rule of the
    passes fired at all, nothing was tested, and a QfxWarning says so.

    Args:
        passes: one pass, or several in order; canonicalization comes first where they need it.
        seeds: of the models; the same seed makes the same model.
        max_steps: operations of a model, at most.
        make: makes a model of a seed and that number, of its own kind.
        watch: looks at the history of each run; what it raises is a failure of the model.

    Returns:
        How many models there were and which rules fired how often.

    Raises:
        FuzzError: at the first model that fails; the message has the least such model that was
            found, as a script.
    """
    given = [passes] if isinstance(passes, (Pass, type)) else passes
    steps = [as_pass(step) for step in given]
    phrases = phrases_of(steps)
    result = Fuzzed()

    def failure(program: Program) -> Exception | None:
        try:
            history = _try(steps, program)
            if watch is not None:
                watch(history)
        except (QfxError, AssertionError) as error:
            return error
        names = {step.name for step in steps}
        for stage in (stage for stage in history if stage.name in names):
            result.fired.update(stage.fired)
        return None

    for seed in seeds:
        program = generate(seed, max_steps, phrases) if make is None else make(seed, max_steps)
        error = failure(program)
        if error is not None:
            program, error = _shrunk(program, error, failure)
            raise FuzzError(program, error, _script(program, steps))
        result.programs += 1
    result.idle = tuple(name for name in _rules_of(steps) if name not in result.fired)
    if result.idle and not result.fired:
        warn(
            f"fuzz tested nothing: in {result.programs} models nothing was found that "
            f"{', '.join(result.idle)} applies to. What to do: more seeds, or make=, a function of "
            "seed and max_steps that makes models with what its pattern matches (a "
            "qfx.testing.Program), or qfx.testing.check on a model of yours"
        )
    return result


def _rules_of(steps: Sequence[Pass]) -> list[str]:
    patterned = [step for step in steps if isinstance(step, PatternPass)]
    return [f"{step.name}/{rule.name}" for step in patterned for rule in step.patterns]


def _try(steps: Sequence[Pass], program: Program) -> History:
    model, x = program.build(), program.example()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _, history = run_passes(model, steps, x)
    assert_unchanged(model, state)
    return history


def _shrunk(
    program: Program, error: Exception, failure: Callable[[Program], Exception | None]
) -> tuple[Program, Exception]:
    """The least program found that fails in the same way."""
    trials, is_smaller = 0, True
    while is_smaller:
        is_smaller = False
        for candidate in _smaller(program):
            trials += 1
            found = failure(candidate) if trials <= _MOST_TRIALS else None
            if found is not None and _is_alike(found, error):
                program, error, is_smaller = candidate, found, True
                break
    return program, error


def _smaller(program: Program) -> Iterator[Program]:
    """What is less of ``program``: what comes first of it, then all but one step."""
    for step in program.steps:
        candidate = program.returning(step.out)
        if len(candidate.steps) < len(program.steps):
            yield candidate
    for output in program.outputs if len(program.outputs) > 1 else ():
        yield program.returning(output)
    for at in range(len(program.steps)):
        bypassed = program.bypassing(at)
        if bypassed is not None:
            yield bypassed


def _is_alike(found: Exception, error: Exception) -> bool:
    def kind(each: Exception) -> tuple[object, ...]:
        return type(each), getattr(each, "pass_name", None), getattr(each, "rule", None)

    return kind(found) == kind(error)


def _import_of(kind: type[Pass]) -> str:
    if kind.__module__ == "__main__" or "." in kind.__qualname__:
        return f"# and {kind.__qualname__} of {kind.__module__}"
    return f"from {kind.__module__} import {kind.__qualname__}"


def _script(program: Program, steps: Sequence[Pass]) -> str:
    """Python text that runs ``steps`` over ``program``."""
    own = {type(step) for step in steps if step.name not in list_passes()}
    imports = sorted(map(_import_of, own))
    made = ", ".join(
        repr(step) if type(step) in own else f"qfx.parse_pass({str(step)!r})" for step in steps
    )
    lines = [
        "import torch",
        "import torch.nn.functional as F",
        "from torch import nn",
        "",
        "import qfx",
        "from qfx.testing import example, seeded",
        *imports,
        "",
        "",
        program.source(),
        "",
        f"qfx.run_passes(seeded(Model, {program.seed}), [{made}], example({program.seed}))",
    ]
    return "\n".join(lines) + "\n"
