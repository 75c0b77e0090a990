"""Runs the float graph on batches that calibration kept, and lets passes look at its calls.

Observers hand on what they get. A pass sees what a call is given and what it yields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from qfx.capture.arguments import copy_tensors
from qfx.framework.pass_context import PassContext
from qfx.graph.interpret import thawed
from qfx.graph.steps import arguments_by_name, state_kept
from qfx.history.events import NearMiss
from qfx.runtime.samples import Sample, Samples
from qfx.verification.outputs import RECORDERS, FloatSteps
from qfx.vocab import bound


class WatchedCall:
    """A call that has just been run.

    Attributes:
        node: which.
        result: what it yields.
    """

    def __init__(self, node: fx.Node, result: Any, values: Mapping[fx.Node, Any]) -> None:
        self.node = node
        self.result = result
        self._values = values

    def arguments(self) -> dict[str, Any]:
        """What the call, of a canonical operation, was given, by name of its parameters."""
        given = fx.map_arg(bound(self.node), lambda read: self._values[read])
        return {name: thawed(value) for name, value in given.items()}


Watcher = Callable[[WatchedCall], None]


def samples_of(ctx: PassContext) -> list[Sample]:
    """The batches that calibration kept; where there are none, the stage says so."""
    kept = ctx.get(Samples) if ctx.has(Samples) else Samples()
    found = list(kept)
    if not found:
        most = kept.room.size // 2**20
        reason = f"calibration kept no batch to measure on (up to {most} MiB): all stays as it is"
        ctx.near_misses.append(NearMiss(ctx.rewriter.pass_name, "", reason))
    return found


def watch(
    graph_module: fx.GraphModule,
    samples: Sequence[Sample],
    looks: Mapping[fx.Node, Sequence[Watcher]],
) -> None:
    """Run batches through the graph, and hand each call of ``looks`` to its functions.

    What is behind the last one is not run.
    """
    last = [node for node in graph_module.graph.nodes if node in looks][-1]
    with state_kept(graph_module, RECORDERS):
        for sample in samples:
            given = arguments_by_name(graph_module.graph, *sample)
            _Watcher(graph_module, copy_tensors(given), looks).run_to(last)


class _Watcher(FloatSteps):
    def __init__(
        self,
        graph_module: fx.GraphModule,
        arguments: Mapping[str, object],
        looks: Mapping[fx.Node, Sequence[Watcher]],
    ) -> None:
        super().__init__(graph_module, arguments)
        self._looks = looks

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and show its call to those who look at it."""
        result = super().run_node(n)
        for look in self._looks.get(n, ()):
            look(WatchedCall(n, result, self.env))
        return result
