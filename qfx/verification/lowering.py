"""The passes around the one that lowers a graph, held to what the graph computes.

    before it      each on its own
    it itself      not here: its calls are compared one by one (:mod:`qfx.verification.calls`)
    after it       all together, and each on its own if they do change something

What lowers a graph rounds as its kernels do, what follows changes nothing but the calls.
"""

from __future__ import annotations

from contextlib import suppress

from torch import fx

from qfx.framework.checkpoint import Checkpoint
from qfx.framework.instruments import Instrument
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.history.snapshot import Snapshot
from qfx.history.stage import Stage
from qfx.verification.outputs import Batch, Outcome, compared, outcome, shaken_outcomes
from qfx.verification.stages import KeepsValues, identities_of


class BeforeLowering(KeepsValues):
    """Looks at each pass before the one that lowers."""

    def __init__(self, batch: Batch, start: Outcome | None = None) -> None:
        super().__init__(batch, start)
        self._is_lowered = False

    def _looks_at(self, step: Pass) -> bool:
        self._is_lowered |= step.produces is Level.LOWERED
        return not self._is_lowered and super()._looks_at(step)


class AfterLowering(KeepsValues):
    """Looks at each pass after the one that lowers."""

    def _looks_at(self, step: Pass) -> bool:
        return step.produces is not Level.LOWERED and super()._looks_at(step)


class Following(Instrument):
    """Looks at the passes after the one that lowers as one.

    Attributes:
        all_keep: whether each of them is to keep what the graph computes.
        last: name of the last of them.
        outcome: what the graph computes after them, where that was looked at.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self.all_keep, self.last = True, ""
        self.outcome: Outcome | None = None
        self._expected: Outcome | None = None
        self._held: dict[str, tuple[int, ...]] = {}
        self._start: Checkpoint | None = None
        self._lowered: Snapshot | None = None
        self._now: Snapshot | None = None

    def before_pass(self, step: Pass, ctx: PassContext) -> None:
        if self._lowered is not None and self._start is None:
            self._start = Checkpoint(ctx.graph_module)
            self._held = identities_of(ctx.graph_module)
            with suppress(Exception):  # of a call, which the check of calls names
                self._expected = outcome(ctx.graph_module, self._batch)

    def after_pass(self, step: Pass, ctx: PassContext, stage: Stage) -> None:
        if step.produces is Level.LOWERED:
            self._lowered = stage.snapshot
        elif self._lowered is not None:
            self.last, self.all_keep = step.name, self.all_keep and step.keeps_values
        self._now = stage.snapshot

    def keep_values(self, graph_module: fx.GraphModule) -> bool:
        """Whether ``graph_module`` computes what it did when it had just been lowered."""
        expected = self._expected
        if self._start is None or expected is None:
            return True
        if self._now == self._lowered and identities_of(graph_module) == self._held:
            return True
        try:
            actual = self.outcome = outcome(graph_module, self._batch)
        except Exception:  # of a call, which the check of calls names
            return True
        if compared(expected, actual).holds:
            return True
        start = self._start.restore()
        if not compared(expected, outcome(start, self._batch)).holds:
            return True  # nor does a call that computes something else each time
        return compared(expected, actual, shaken_outcomes(start, self._batch)).holds
