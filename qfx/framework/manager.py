"""Runs passes over one graph: each is verified, recorded and timed, and a failure says where.

    checkpoint -> pass.run -> drop orphans -> verify -> snapshot -> instruments

The graph module is changed in place; callers give a copy. Code is generated once, at the end.
Whether a pass changed anything follows from the snapshots; nobody reports it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from torch import fx

from qfx.caller_modes import undisturbed
from qfx.errors import ConfigError, PassError, PatternError, QfxError, RuleError, VerifyError
from qfx.framework.adoption import adopt
from qfx.framework.checkpoint import Checkpoint
from qfx.framework.instruments import Instrument
from qfx.framework.level_checks import LevelChecks, check_read
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.framework.pipeline import Marker, Pipeline, PipelineStep
from qfx.framework.plain_fx import refused_node
from qfx.framework.value_check import ValueCheck
from qfx.graph.verify import Fitting, Interface, verify
from qfx.graph.working import WorkingGraphModule
from qfx.history.diff import GraphDiff
from qfx.history.history import History
from qfx.history.snapshot import Snapshot, snapshot
from qfx.history.stage import Stage
from qfx.rewrite.rewriter import Rewriter

_DIFF_LINES = 40


@undisturbed()
def run_pipeline(
    graph_module: fx.GraphModule,
    passes: Pipeline | Sequence[PipelineStep],
    ctx: PassContext | None = None,
    history: History | None = None,
    instruments: Sequence[Instrument] = (),
) -> fx.GraphModule:
    """Run passes over ``graph_module``, in place.

    Args:
        graph_module: whose graph to transform; the caller's own copy.
        passes: a pipeline without a ``calibrate`` marker, or passes in order.
        ctx: what passes may use; a bare one when None.
        history: gets a stage per pass (and the start, as "capture", if it is empty).
        instruments: told before and after each pass.

    Returns:
        ``graph_module``, with its code generated.

    Raises:
        VerifyError: the graph is broken to begin with.
        PassError: a pass failed, or broke the graph.
    """
    transform(graph_module, passes, ctx, history, instruments)
    graph_module.recompile()
    return graph_module


def transform(
    graph_module: fx.GraphModule,
    passes: Pipeline | Sequence[PipelineStep],
    ctx: PassContext | None = None,
    history: History | None = None,
    instruments: Sequence[Instrument] = (),
) -> None:
    """:func:`run_pipeline` without the code, which only a WorkingGraphModule generates itself."""
    ctx = PassContext(graph_module) if ctx is None else ctx
    start = passes.start if isinstance(passes, Pipeline) else ctx.level
    pipeline = passes if isinstance(passes, Pipeline) else Pipeline(tuple(passes), start=start)
    ctx.level, ctx.graph_module = start, graph_module
    run = _Run(graph_module, ctx, History() if history is None else history, tuple(instruments))
    for at, step in enumerate(pipeline.passes, 1):
        if isinstance(step, Marker):
            raise ConfigError(
                f"the pipeline has the marker `{step}`, where data has to run through the model; "
                "use qfx.quantize, or run the halves of pipeline.split() around it"
            )
        ctx.ahead = pipeline.passes[at:]
        run.step(step)


def apply(graph_module: fx.GraphModule, passes: Sequence[Pass], ctx: PassContext) -> None:
    """Run passes over ``graph_module``, in place, and verify what they leave; nothing is recorded.

    For passes that ran over the same graph before, when it was recorded, and which is not trusted:
    it tells what its nodes yield, and no node runs to tell that of new ones.

    Raises:
        VerifyError: what they leave is no valid graph.
    """
    ctx.graph_module = graph_module
    for step in passes:
        ctx.rewriter = ctx.rewriter_of(step.name, preserved=step.preserves, infers=False)
        ctx.put(step)
        step.run(graph_module.graph, ctx)
    ctx.rewriter.finish()  # what none of them uses any more goes at once
    verify(graph_module)


class _Run:
    """One pipeline at work on one graph."""

    def __init__(
        self,
        graph_module: fx.GraphModule,
        ctx: PassContext,
        history: History,
        instruments: tuple[Instrument, ...],
    ) -> None:
        self.graph_module, self.ctx, self.history = graph_module, ctx, history
        self.instruments = instruments
        Rewriter(graph_module, pass_name="").finish()
        self._fitting: Fitting = set()
        self._checks = ctx.get(LevelChecks) if ctx.has(LevelChecks) else LevelChecks()
        verify(graph_module, self._fitting)
        self.interface = Interface(graph_module.graph)
        if not len(history):
            history.append(Stage(0, "capture", self._snapshot(), (), 0.0))
        self._checkpoint = Checkpoint(graph_module)
        self._view: Snapshot | None = None  # of the graph at the checkpoint, if a pass left it
        for instrument in instruments:
            instrument.on_start(ctx, history[-1])

    def step(self, step: Pass) -> None:
        """Run one pass and record its stage."""
        ctx = self.ctx
        for instrument in self.instruments:
            instrument.before_pass(step, ctx)
        checkpoint, known = self._checkpoint, len(ctx.near_misses)
        ctx.rewriter = ctx.rewriter_of(step.name, preserved=step.preserves)
        ctx.put(step)  # rules read its options
        began = time.perf_counter()
        try:
            _at_work(step, self.graph_module, ctx)
            ctx.rewriter.finish()
            level = ctx.level if step.produces is None else max(ctx.level, step.produces)
            view = self._verified(step, checkpoint, level)
            self._check_values(step, view)
        except Exception as error:
            if isinstance(error, QfxError) and not isinstance(error, VerifyError | PatternError):
                error.raised_in(
                    str(step), step.name, _rule_of(ctx.rewriter.rule), ctx.rewriter.node
                )
                raise  # for callers, who can do something about it
            raise self._failure(step, checkpoint, error) from error
        seconds = time.perf_counter() - began
        if isinstance(self.graph_module, WorkingGraphModule):
            self.graph_module.outdate()
        ctx.level = level
        stage = Stage(
            len(self.history),
            step.name,
            view,
            tuple(ctx.rewriter.events),
            seconds,
            tuple(ctx.near_misses[known:]),
            tuple(ctx.rewriter.statistics.values()),
        )
        if view != self.history[-1].snapshot:
            ctx.drop_analyses(but=step.preserves)
        self.history.append(stage)
        for instrument in self.instruments:
            instrument.after_pass(step, ctx, stage)

    def _verified(self, step: Pass, checkpoint: Checkpoint, level: Level) -> Snapshot:
        """The graph as the pass left it, which is as every graph and those of ``level`` must be."""
        if self._view is not None and checkpoint.holds(self.graph_module):
            self._checks.check(self.graph_module, level)  # the rest, when it was made
            return self._view
        adopt(self.graph_module, checkpoint.arguments, step.name)
        values = self.ctx.rewriter.values
        values.settle_all(self.graph_module.graph)
        verify(self.graph_module, self._fitting)
        values.configured.update(checkpoint.tampered_with(self.graph_module))
        self._checks.check(self.graph_module, level)
        self.interface.check(self.graph_module.graph)
        if level < Level.CANONICAL:
            check_read(self.graph_module, but=checkpoint.arguments())
        view = self._view = self._snapshot()
        self._checkpoint = Checkpoint(self.graph_module)
        return view

    def _check_values(self, step: Pass, view: Snapshot) -> None:
        """Check shapes, as far as the pass touched them."""
        before, values = self.history[-1].snapshot, self.ctx.rewriter.values
        if view is before and not values.configured:
            return
        lowering = step.name if step.produces is Level.LOWERED else None
        ValueCheck(self.graph_module, before, view, values, lowering).run()

    def _snapshot(self) -> Snapshot:
        previous = self.history[-1].snapshot if len(self.history) else None
        return snapshot(self.graph_module, region=self.ctx.region, previous=previous)

    def _failure(self, step: Pass, checkpoint: Checkpoint, error: Exception) -> PassError:
        """Say what broke where, and what the pass had done by then."""
        rewriter = self.ctx.rewriter
        named = error.node if isinstance(error, VerifyError | PatternError) else None
        known = named or refused_node(error)
        node = known if isinstance(error, VerifyError) else rewriter.node or known
        rule = _rule_of(rewriter.rule or self._maker(node))
        last = self.history[-1]
        broken = _try_snapshot(self.graph_module, self.ctx.region, last.snapshot)
        lines = [_headline(step, rule, node, error)]
        lines += _around(node, broken, last.snapshot)
        lines += _changes(last, step, broken)
        lines.append(
            f"The graph of the last valid stage ({last.index} {last.name}) is on the error: "
            "error.graph_module"
        )
        kind = RuleError if isinstance(error, PatternError) else PassError
        return kind(
            "\n".join(lines),
            pass_name=step.name,
            rule=rule,
            node=node,
            graph_module=checkpoint.restore(),
        )

    def _maker(self, node: str | None) -> str | None:
        """The rule of this pass that last made, removed or changed ``node``."""
        for event in reversed(self.ctx.rewriter.events):
            if node in (*event.added, *event.removed, *event.changed):
                return event.rule
        return None


def _at_work(step: Pass, graph_module: fx.GraphModule, ctx: PassContext) -> None:
    run: Callable[..., object] = step.run
    made = run(graph_module.graph, ctx)
    if isinstance(made, fx.Graph | fx.GraphModule) and made not in (
        graph_module,
        graph_module.graph,
    ):
        raise VerifyError(
            f"run() returned a {type(made).__name__} of its own, which nothing would read; a pass "
            "changes the graph that it is given, in place"
        )


def _headline(step: Pass, rule: str | None, node: str | None, error: Exception) -> str:
    place = f" at %{node}" if node else ""
    at_work = f" (rule {rule}{place})" if rule else place and f" ({place[1:]})"
    if isinstance(error, VerifyError):
        return f"pass {step}{at_work} left a graph that does not verify: {error}"
    return f"pass {step}{at_work} raised {type(error).__name__}: {error}"


def _around(node: str | None, broken: Snapshot | None, last: Snapshot) -> list[str]:
    """The IR around a node: as the pass left it, or else as the pass found it."""
    for view, when in ((broken, "as the pass left it"), (last, "before the pass")):
        if node is not None and view is not None and node in view:
            return [f"The IR around %{node}, {when}:", _indented(view.around(node))]
    return []


def _changes(last: Stage, step: Pass, broken: Snapshot | None) -> list[str]:
    if broken is None:
        return ["What the pass changed can't be shown: its graph can't be read."]
    diff = GraphDiff(last.snapshot, broken, (f"{last.index} {last.name}", step.name))
    if not diff:
        return [f"The pass had not changed the graph of stage {last.index} {last.name}."]
    text = diff.to_text().splitlines()
    more = [f"... {len(text) - _DIFF_LINES} more lines"] if len(text) > _DIFF_LINES else []
    shown = "\n".join([*text[:_DIFF_LINES], *more])
    return [f"What the pass changed since stage {last.index} {last.name}:", _indented(shown)]


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines())


def _try_snapshot(graph_module: fx.GraphModule, region: str, previous: Snapshot) -> Snapshot | None:
    """A view of a graph that may be too broken for one."""
    try:
        return snapshot(graph_module, region=region, previous=previous)
    except Exception:
        return None


def _rule_of(at_work: str | None) -> str | None:
    """The rule of "pass/rule", if there is one."""
    return (at_work or "").partition("/")[2] or None
