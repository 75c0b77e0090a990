"""Which pass changed what the model computes, and at which node.

A pass keeps values unless it says otherwise: the graph computes the same after it as before it, to
rounding. Observers and fake-quants hand on what they are given here.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from qfx.errors import PassError
from qfx.graph import meta
from qfx.graph.clone import clone_graph_module
from qfx.graph.diff import GraphDiff
from qfx.graph.history import Stage
from qfx.graph.steps import state_kept
from qfx.instruments import Instrument
from qfx.pass_base import Pass, PassContext
from qfx.verification.differences import fraction_off
from qfx.verification.outputs import Batch, agreement, float_steps, least_agreement, outcome

_DIFF_LINES = 40
_OFF = 1e-3


class KeepsValues(Instrument):
    """Fails at the first pass of that kind after which the graph computes something else.

    Args:
        batch: example inputs.
        foreign_only: look at passes of other people only.
    """

    def __init__(self, batch: Batch, *, foreign_only: bool = False) -> None:
        self._batch = batch
        self._foreign_only = foreign_only
        self._before: fx.GraphModule | None = None
        self._stage: Stage | None = None

    def on_start(self, ctx: PassContext, stage: Stage) -> None:
        self._stage = stage

    def before_pass(self, step: Pass, ctx: PassContext) -> None:
        looked_at = step.keeps_values and not (self._foreign_only and step.is_own)
        self._before = clone_graph_module(ctx.graph_module, apart=True) if looked_at else None

    def after_pass(self, step: Pass, ctx: PassContext, stage: Stage) -> None:
        before, last = self._before, self._stage
        self._before, self._stage = None, stage
        if before is None or last is None:
            return
        expected, actual = outcome(before, self._batch), outcome(ctx.graph_module, self._batch)
        found, least = agreement(expected, actual), least_agreement(expected, actual)
        if found >= least:
            return
        node = first_change(before, ctx.graph_module, self._batch)
        raise PassError(
            _message(step, found, least, node, GraphDiff(last.snapshot, stage.snapshot)),
            pass_name=step.name,
            rule=None if node is None else meta.rule_of(node).partition("/")[2] or None,
            node=None if node is None else node.name,
            graph_module=before,
        )


def first_change(before: fx.GraphModule, after: fx.GraphModule, batch: Batch) -> fx.Node | None:
    """The first node of ``after`` whose value differs from that of its counterpart in ``before``.

    Counterparts have the same name, or else compute the same captured operation.
    """
    values: dict[str, Any] = {}
    origins: dict[str, Any] = {}
    with state_kept(before):
        steps = float_steps(before, batch)
        for node in before.graph.nodes:
            values[node.name] = value = _kept(steps.step(node))
            if meta.origins(node):
                origins[meta.origins(node)[-1].node] = value
    with state_kept(after):
        steps = float_steps(after, batch)
        for node in list(after.graph.nodes):
            value = steps.step(node)
            last = [o.node for o in meta.origins(node)[-1:]]
            found = values.get(node.name, next((origins[n] for n in last if n in origins), None))
            if node.op.startswith("call_") and _differs(found, value):
                changed: fx.Node = node
                return changed
    return None


def _kept(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else None


def _differs(expected: Any, value: Any) -> bool:
    both = isinstance(expected, Tensor) and isinstance(value, Tensor)
    if not both or expected.shape != value.shape or expected.dtype != value.dtype:
        return False
    return expected.is_floating_point() and fraction_off(value, expected) > _OFF


def _message(step: Pass, found: float, least: float, node: fx.Node | None, diff: GraphDiff) -> str:
    at = "" if node is None else f", first at %{meta.where(node)}"
    shown = diff.to_text().splitlines()
    more = [f"... {len(shown) - _DIFF_LINES} more lines"] if len(shown) > _DIFF_LINES else []
    return "\n".join(
        (
            f"pass {step} changes what the model computes{at}: on the example inputs the outputs "
            f"agree to {found:.1f} dB with those before it, and rounding leaves {least:.0f} dB. "
            "What to do: mend the pass; where the change is meant, say so in its class: "
            "keeps_values = False.",
            "What the pass changed:",
            *(f"  {line}" for line in (*shown[:_DIFF_LINES], *more)),
        )
    )
