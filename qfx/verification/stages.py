"""Which pass changed what the model computes, and at which node.

A pass keeps values unless it says otherwise: the graph computes the same after it as before it, to
rounding. Observers and fake-quants hand on what they are given here. How near two outputs are is
their signal-to-noise ratio, ``SQNR = 10 log10(sum(y^2) / sum((y - y')^2))`` in dB, over all of them
and the buffers that the graph writes to; infinite when they agree exactly.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, fx

from qfx.errors import ConfigError, PassError
from qfx.framework.checkpoint import Checkpoint
from qfx.framework.instruments import Instrument
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.graph.state import held_by_calls
from qfx.graph.steps import state_kept
from qfx.history.diff import GraphDiff
from qfx.history.stage import Stage
from qfx.private_attributes import version_of
from qfx.verification.contents import held_values
from qfx.verification.differences import fraction_off
from qfx.verification.outputs import (
    EIGHT_BITS,
    FLIPS,
    RECORDERS,
    Batch,
    Outcome,
    Verdict,
    agreement,
    compared,
    float_steps,
    outcome,
    shaken_outcomes,
)

_DIFF_LINES = 40
_OFF = 1e-3
"""From how large an error on a value counts as changed, as a fraction of the largest."""


class NumericCheck(Instrument):
    """Compares what the graph computes after each pass with what it computed before it.

    Args:
        min_sqnr: least SQNR in dB that a pass must keep; None only records.
        inputs: positional arguments to run with; those of the capture when None.

    Attributes:
        sqnr: per pass, in dB.
    """

    def __init__(
        self, *, min_sqnr: float | None = None, inputs: tuple[object, ...] | None = None
    ) -> None:
        self.min_sqnr = min_sqnr
        self.inputs = inputs
        self.sqnr: dict[str, float] = {}
        self._before: Checkpoint | None = None
        self._outcome: Any = None
        self._stage: Stage | None = None
        self._held: dict[str, tuple[int, ...]] = {}

    def on_start(self, ctx: PassContext, stage: Stage) -> None:
        self._batch(ctx)
        self._stage, self._outcome = stage, None

    def before_pass(self, step: Pass, ctx: PassContext) -> None:
        self._before = None
        if not self._looks_at(step):
            return
        self._before = Checkpoint(ctx.graph_module)
        if self._outcome is None:  # now: the pass may write to tensors
            self._outcome = outcome(ctx.graph_module, self._batch(ctx))
        self._held = identities_of(ctx.graph_module)

    def after_pass(self, step: Pass, ctx: PassContext, stage: Stage) -> None:
        before, last, expected = self._before, self._stage, self._outcome
        self._before, self._stage, self._outcome = None, stage, None
        if before is None or last is None:
            return
        kept = identities_of(ctx.graph_module) == self._held
        if stage.snapshot == last.snapshot and kept:
            self._outcome, self.sqnr[step.name] = expected, math.inf
            return
        actual = self._outcome = outcome(ctx.graph_module, self._batch(ctx))
        self.sqnr[step.name] = agreement(expected, actual)
        verdict, why = self._judge(step, before, expected, actual)
        if verdict.holds:
            return
        found, least = verdict
        off = min(_OFF, 10 ** (-least / 20))
        earlier = before.restore()
        node = first_change(earlier, ctx.graph_module, self._batch(ctx), off)
        rule, node = _culprit(node, step, stage, earlier.graph)
        by = f" (rule {rule})" if rule else ""
        at = "" if node is None else f", first at %{meta.where(node)}"
        raise PassError(
            f"pass {step}{by} changes what the model computes{at}: on the example inputs "
            f"the outputs agree to {found:.1f} dB with those before it, and {why}\n"
            + _changes(GraphDiff(last.snapshot, stage.snapshot)),
            pass_name=step.name,
            rule=rule,
            node=None if node is None else node.name,
            graph_module=before.restore(),
        )

    def _batch(self, ctx: PassContext) -> Batch:
        args = ctx.example_inputs if self.inputs is None else self.inputs
        if not args and not ctx.example_kwargs:
            raise ConfigError("the numeric check needs example inputs: NumericCheck(inputs=...)")
        return args, ctx.example_kwargs

    def _looks_at(self, step: Pass) -> bool:
        return True

    def _judge(
        self, step: Pass, before: Checkpoint, expected: object, actual: object
    ) -> tuple[Verdict, str]:
        """How well the two agree and how well they have to, and why, for the message."""
        least = -math.inf if self.min_sqnr is None else self.min_sqnr
        return Verdict(self.sqnr[step.name], least), f"at least {least:.1f} dB are asked for."


class KeepsValues(NumericCheck):
    """Fails at the first pass after which the graph computes something else, unless that is meant.

    Args:
        batch: example inputs.
        start: what the graph computes of them before all passes, where that is known.
    """

    def __init__(self, batch: Batch, start: Outcome | None = None) -> None:
        super().__init__()
        self._examples, self._start = batch, start

    def on_start(self, ctx: PassContext, stage: Stage) -> None:
        super().on_start(ctx, stage)
        self._outcome = self._start

    def _batch(self, ctx: PassContext) -> Batch:
        return self._examples

    def _looks_at(self, step: Pass) -> bool:
        return step.keeps_values

    def _judge(
        self, step: Pass, before: Checkpoint, expected: object, actual: object
    ) -> tuple[Verdict, str]:
        # Kernels round where the reference form doesn't.
        cap = EIGHT_BITS - FLIPS if step.produces is Level.LOWERED else math.inf
        verdict = compared(expected, actual, cap=cap)
        if not verdict.holds:
            shaken = shaken_outcomes(before.restore(), self._examples)
            verdict = compared(expected, actual, shaken, cap=cap)
        return verdict, (
            f"rounding leaves {verdict.least:.0f} dB. What to do: mend the pass; where the change "
            "is meant, say so in its class: keeps_values = False."
        )


def identities_of(module: fx.GraphModule) -> dict[str, tuple[int, ...]]:
    """What identifies what ``module`` holds and the modules that it calls, and tensors' contents.

    It tells as long as something else, as a copy of the module, keeps them alive.
    """
    found = held_values(module).items()
    of_tensors = {n: (id(value), version_of(value)) for n, value in found}
    of_calls = {p: tuple(map(id, held)) for p, held in held_by_calls(module).items()}
    return {**of_tensors, **of_calls}


def first_change(
    before: fx.GraphModule, after: fx.GraphModule, batch: Batch, off: float
) -> fx.Node | None:
    """The first node of ``after`` whose value differs from that of its counterpart in ``before``.

    ``off`` is by how much at least, as a fraction of the largest.


    Counterparts have the same name, or else compute the same captured operation.
    """
    values: dict[str, Any] = {}
    origins: dict[str, Any] = {}
    with state_kept(before, RECORDERS):
        steps = float_steps(before, batch)
        for node in before.graph.nodes:
            values[node.name] = value = _kept(steps.step(node))
            if meta.origins(node):
                origins[meta.origins(node)[-1].node] = value
    with state_kept(after, RECORDERS):
        steps = float_steps(after, batch)
        for node in list(after.graph.nodes):
            value = steps.step(node)
            last = [o.node for o in meta.origins(node)[-1:]]
            found = values.get(node.name, next((origins[n] for n in last if n in origins), None))
            if node.op.startswith("call_") and _differs(found, value, off):
                changed: fx.Node = node
                return changed
    return None


def _culprit(
    node: fx.Node | None, step: Pass, stage: Stage, earlier: fx.Graph
) -> tuple[str | None, fx.Node | None]:
    """The rule at fault, and the node: what it made, or else what it removed for something else.

    ``node`` is the first that yields something else, or None where only what is returned does.
    """
    maker, _, rule = ("" if node is None else meta.rule_of(node)).partition("/")
    if maker == step.name and rule:
        return rule, node
    events = [e for e in stage.events if e.removed and (node is None or node.name in e.changed)]
    rules = {event.rule.partition("/")[2] for event in events}
    if len(rules) != 1:
        return None, node
    gone = events[0].removed[0]
    return rules.pop() or None, next((n for n in earlier.nodes if n.name == gone), node)


def _kept(value: object) -> Any:
    return value.clone() if isinstance(value, Tensor) else None


def _differs(expected: Any, value: Any, off: float) -> bool:
    both = isinstance(expected, Tensor) and isinstance(value, Tensor)
    if not both or expected.shape != value.shape or expected.dtype != value.dtype:
        return False
    return expected.is_floating_point() and fraction_off(value, expected) > off


def _changes(diff: GraphDiff) -> str:
    if not diff:
        return (
            "The graph is as it was: the pass changed what modules hold that it calls, such as "
            "attributes, hooks and buffers."
        )
    shown = diff.to_text().splitlines()
    more = [f"... {len(shown) - _DIFF_LINES} more lines"] if len(shown) > _DIFF_LINES else []
    lines = (*shown[:_DIFF_LINES], *more)
    return "\n".join(("What the pass changed:", *(f"  {line}" for line in lines)))
