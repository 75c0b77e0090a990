"""One walk of the float model and the rounded one, on which passes act layer by layer.

    each layer:  its weight is rounded;  every pass acts;  both models run it, and go on

What is done to a layer is part of what arrives at those behind it. Where two passes that measure so
follow each other, the first takes the second along: both act on a layer before the next one is
measured, and the models run once for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import fx
from tqdm import tqdm

from qfx.framework.pass_context import PassContext
from qfx.graph.steps import state_kept
from qfx.runtime.samples import Progress, Sample
from qfx.verification.outputs import RECORDERS
from qfx_passes.accuracy.corrected_layers import originals
from qfx_passes.accuracy.rounded_layers import rounded_weight
from qfx_passes.accuracy.two_streams import Streams


class Walker(Protocol):
    """A pass on a walk."""

    @property
    def is_done(self) -> bool:
        """Whether nothing that is still to come matters to it."""

    def act(self, node: fx.Node, streams: Streams) -> None:
        """Measure what ``node``, the next one, reads or yields, and let the rounded one differ."""


def walk(ctx: PassContext, samples: Sequence[Sample], walkers: Sequence[Walker]) -> None:
    """Go through the graph as far as walkers want to.

    Args:
        ctx: of the pass that walks.
        samples: batches of calibration, one at least.
        walkers: who act on each node, in this order.
    """
    shown = (ctx.get(Progress) if ctx.has(Progress) else Progress(None)).is_shown
    with state_kept(ctx.graph_module, RECORDERS):
        streams = Streams(ctx.graph_module, samples, originals(ctx).arguments())
        for node in tqdm(ctx.rewriter.graph.nodes, ctx.rewriter.pass_name, disable=not shown):
            if all(walker.is_done for walker in walkers):
                continue
            weight = rounded_weight(node, ctx)
            if weight is not None:
                streams.give(node, weight=weight)
            for walker in walkers:
                walker.act(node, streams)
            streams.step(node)
