"""Whether all that passes of ours do to a graph went through the gate, and so left an event.

Foreign passes may use plain fx: the manager takes over what they made. So they are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

from torch import fx

from qfx.framework import manager
from qfx.framework.instruments import Instrument
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.history.history import History
from qfx.history.snapshot import Snapshot
from qfx.history.stage import Stage


class BypassError(AssertionError):
    """A pass of ours changed a graph behind the back of its rewriter."""


class GateWatch(Instrument):
    """Fails where a node came, went or changed, and no event names it."""

    def on_start(self, ctx: PassContext, stage: Stage) -> None:
        self.before = stage.snapshot

    def after_pass(self, step: Pass, ctx: PassContext, stage: Stage) -> None:
        before, self.before = self.before, stage.snapshot
        if not _is_ours(step) or stage.snapshot is before:
            return
        unnamed = list(without_event(before, stage))
        if unnamed:
            raise BypassError(
                f"{step} changed the graph beside its rewriter, so that nothing says what it did: "
                + "; ".join(unnamed)
            )


def _is_ours(step: Pass) -> bool:
    return type(step).__module__.partition(".")[0] in ("qfx", "qfx_passes")


def without_event(before: Snapshot, stage: Stage) -> Iterator[str]:
    """What a stage did that none of its events names."""
    was, now = ({r.name: r for r in view} for view in (before, stage.snapshot))
    removed = {name for event in stage.events for name in event.removed}
    added = {name for event in stage.events for name in event.added}
    named = added.union(*(event.changed for event in stage.events))
    yield from (f"removed %{n}" for n in was if n not in now and n not in removed)
    yield from (f"added %{n}" for n in now if n not in was and n not in added)
    for name, record in now.items():
        if name in was and was[name] is not record and name not in named:
            yield f"changed %{name}: {was[name]}  ->  {record}"
    kept = [[n for n in view if n in was and n in now and n not in added] for view in (was, now)]
    if kept[0] != kept[1]:
        yield "moved nodes"


class _Watched(manager._Run):
    def __init__(
        self,
        graph_module: fx.GraphModule,
        ctx: PassContext,
        history: History,
        instruments: Sequence[Instrument],
    ) -> None:
        super().__init__(graph_module, ctx, history, (*instruments, GateWatch()))


@contextmanager
def watched() -> Iterator[None]:
    """In here, each run of the manager has a watch."""
    with mock.patch.object(manager, "_Run", _Watched):
        yield
