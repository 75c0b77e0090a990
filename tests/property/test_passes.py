"""What holds for every registered pass, on generated models.

Every standard pipeline runs, and again with each of its passes doubled, and so do the passes that a
backend brings; passes that stand in no pipeline run alone. A pass or pipeline that comes later is
covered without a line here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import qfx_passes.pipelines
from qfx.backends import resolve_backend
from qfx.capture.capture import capture
from qfx.custom_passes import offer_defaults, run_passes
from qfx.framework.instruments import Instrument
from qfx.framework.levels import Level
from qfx.framework.manager import run_pipeline
from qfx.framework.pass_base import Pass, as_pass
from qfx.framework.pass_context import PassContext
from qfx.framework.pipeline import Pipeline
from qfx.framework.registry import get_pass, list_passes, parse_pass
from qfx.history.history import History
from qfx.history.stage import Stage
from qfx.verification.stages import NumericCheck
from tests.support import Program, programs
from tests.support.once import once

# Float passes reorder float arithmetic at most; 8-bit rounding of small random models keeps this.
FLOAT_SQNR, QUANTIZED_SQNR = 90.0, 8.0


def few(examples: int) -> settings:
    """The same few models in every run; programs are short, and shrinking takes minutes."""
    phases = (Phase.explicit, Phase.generate)
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, phases=phases
    )


def factories() -> Iterator[tuple[str, Callable[..., Pipeline]]]:
    """The standard pipelines by name, with all passes that there are for them."""
    for name, function in inspect.getmembers(qfx_passes.pipelines, inspect.isfunction):
        returns = inspect.signature(function).return_annotation
        if not name.startswith("_") and returns in ("Pipeline", Pipeline):
            most = "effort" in inspect.signature(function).parameters
            yield name, partial(function, effort="high") if most else function


FACTORIES = dict(factories())
STEPS = sorted(
    {
        step.name: (name, step.name)
        for name, make in FACTORIES.items()
        for step in make(backend="reference")
        if isinstance(step, Pass)
    }.values()
)
BROUGHT = resolve_backend("x86").passes
PLACED = {*(step for _, step in STEPS), *(step.name for step in BROUGHT)}
ALONE = [
    name
    for name in list_passes()
    if name not in PLACED
    and (as_pass(get_pass(name)).requires or Level.CAPTURED) <= Level.CANONICAL
]
"""On a graph as it is captured. What conversion puts in, as keep-float, has nothing to do there."""


class Numbers(NumericCheck):
    """Also remembers by stage, since a doubled pass has one name."""

    def __init__(self) -> None:
        super().__init__()
        self.by_stage: dict[int, float] = {}

    def after_pass(self, step: Pass, ctx: PassContext, stage: Stage) -> None:
        super().after_pass(step, ctx, stage)
        self.by_stage[stage.index] = self.sqnr[step.name]


def run(
    pipeline: Pipeline,
    model: nn.Module,
    x: torch.Tensor,
    *instruments: Instrument,
    backend: str = "reference",
) -> History:
    """Run both halves, with the example as calibration data."""
    graph_module = capture(model, (x,))
    ctx = PassContext(graph_module, example_inputs=(x,))
    offer_defaults(ctx, model, backend, pipeline.method or "static")
    history = History()
    before, after = pipeline.split()
    run_pipeline(graph_module, before, ctx, history, instruments)
    with torch.no_grad():
        graph_module(x)
    run_pipeline(graph_module, after, ctx, history, instruments)
    return history


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("name", FACTORIES)
def test_pipelines_hold_on_any_model(name: str) -> None:
    @few(12)
    @given(programs(max_steps=7), st.sampled_from(("reference", "x86")))
    def holds(program: Program, backend: str) -> None:
        pipeline = FACTORIES[name](backend=backend)
        model, x, numbers = program.build(), program.example(), Numbers()
        untouched = fingerprint(model, x)
        history = run(pipeline, model, x, numbers, backend=backend)
        assert fingerprint(model, x) == untouched
        assert_numbers(history, numbers.by_stage, pipeline)
        assert_meta(history)
        assert texts(run(pipeline, model, x, backend=backend)) == texts(history)

    holds()


@once
def doubled(name: str) -> list[History]:
    """Of a few models, with every pass of the pipeline run twice in a row."""
    pipeline, found = FACTORIES[name](backend="reference"), []
    for step in pipeline:
        if isinstance(step, Pass):
            pipeline = pipeline.insert_after(step.name, step)

    @few(8)
    @given(programs(max_steps=5))
    def collect(program: Program) -> None:
        found.append(run(pipeline, program.build(), program.example()))

    collect()
    return found


@pytest.mark.filterwarnings("ignore:does in training what it does in inference")  # F.batch_norm
@pytest.mark.filterwarnings("ignore:nothing but zeros was seen")  # x - x
@pytest.mark.parametrize(("name", "step"), STEPS)
def test_passes_of_pipelines_are_idempotent(name: str, step: str) -> None:
    for history in doubled(name):
        first, again = (stage for stage in history if stage.name == step)
        assert again.snapshot == first.snapshot, str(history.diff(first.index, again.index))


@few(8)
@given(programs(max_steps=5))
def test_passes_of_a_backend_are_idempotent_and_keep_values(program: Program) -> None:
    twice = tuple(step for step in BROUGHT for _ in range(2))
    pipeline = qfx_passes.pipelines.static().with_passes_at(Level.LOWERED, twice)
    numbers = Numbers()
    history = run(pipeline, program.build(), program.example(), numbers, backend="x86")
    for name in (step.name for step in BROUGHT):
        first, again = (stage for stage in history if stage.name == name)
        assert again.snapshot == first.snapshot, str(history.diff(first.index, again.index))
        assert min(numbers.by_stage[first.index], numbers.by_stage[again.index]) > FLOAT_SQNR


@pytest.mark.parametrize("name", ALONE)
def test_passes_in_no_pipeline_hold_on_any_model(name: str) -> None:
    step = as_pass(get_pass(name))

    @few(20)
    @given(programs(max_steps=7))
    def holds(program: Program) -> None:
        model, x = program.build(), program.example()
        untouched = fingerprint(model, x)
        check = NumericCheck(min_sqnr=FLOAT_SQNR)
        _, history = run_passes(model, [step, step], x, backend="reference", instruments=[check])
        assert fingerprint(model, x) == untouched
        assert history[-1].snapshot == history[-2].snapshot
        assert_meta(history)

    holds()


@pytest.mark.parametrize("name", list_passes())
def test_text_round_trips(name: str) -> None:
    step = as_pass(get_pass(name))
    assert str(step) == name
    assert parse_pass(str(step)) == step


@pytest.mark.parametrize("name", FACTORIES)
def test_passes_of_pipelines_are_registered(name: str) -> None:
    for step in FACTORIES[name]():
        if isinstance(step, Pass):
            assert get_pass(step.name) is type(step)


def fingerprint(model: nn.Module, x: torch.Tensor) -> tuple[object, ...]:
    """All that a pass might have changed of what belongs to the user."""
    tensors = {k: v.double().sum().item() for k, v in model.state_dict().items()}
    modes = tuple((n, type(m), m.training, len(m._forward_hooks)) for n, m in model.named_modules())
    versions = tuple(p._version for p in (*model.parameters(), *model.buffers(), x))
    return tensors, modes, versions, x.double().sum().item()


def assert_numbers(history: History, numbers: dict[int, float], pipeline: Pipeline) -> None:
    """Before calibration numbers stay; afterwards they are close."""
    prepares = pipeline.split()[0]
    for stage in list(history)[1:]:
        least = FLOAT_SQNR if stage.name in prepares else QUANTIZED_SQNR
        assert numbers[stage.index] >= least, f"{stage.name}: {numbers[stage.index]:.1f} dB"


def assert_meta(history: History) -> None:
    """Every computation says which operations it comes from, and what it yields."""
    known = {record.name for record in history[0].snapshot}
    inputs = {record.name for record in history[0].snapshot if record.op == "placeholder"}
    for stage in history:
        for record in stage.snapshot:
            if not record.op.startswith("call_"):
                continue
            place = f"%{record.name} of stage {stage.title}"
            assert record.origins, f"{place} has no origin"
            assert {o.node for o in record.origins} <= known, f"{place} has unknown origins"
            sources = [o.source for o in record.origins if o.node not in inputs]
            assert any(sources) or not sources, f"{place} has no source line"
            assert record.name in known or record.rule, f"{place} has no maker"


def texts(history: History) -> list[str]:
    return [history.to_text(stage.index) for stage in history]


def test_fingerprint_sees_changes() -> None:
    model, x = nn.BatchNorm1d(2), torch.ones(3, 2)
    before = fingerprint(model, x)
    assert fingerprint(model, x) == before
    model(x)
    assert fingerprint(model, x) != before
