"""match-means: let convolutions yield, in the mean, what they yield in float.

    b' = b + E[W x + b] - E[Q(W) x' + b]          x': what arrives, rounded wherever it will be

Means are of each output channel. :mod:`qfx_passes.accuracy.correct_bias` takes the mean error of a
weight back by the mean of its input; what clipping and rounding of activations shift, and what
padding leaves out at borders, it does not know. Here the float graph and the rounded one run
side by side on batches that calibration kept, node by node, each layer is corrected before what is
behind it is measured (empirical bias correction: Nagel et al. 2021, arXiv:2106.08295, section 4.3;
Finkelstein et al. 2019, arXiv:1906.03193).

A shift d with the standard error e over samples counts as ``d^3 / (d^2 + e^2)``. Every second one
chooses, the others judge: a layer whose means would not be nearer there stays as it is, and so do
all where only one sample was kept. A bias of exactly 0 stays 0: correct-bias leaves it where inputs
of zeros must yield zeros. Convolutions alone are corrected: over few tokens means say little
(docs/accuracy.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.history.events import NearMiss
from qfx.quant.annotation import annotation, mark_making_up
from qfx.runtime.samples import Room
from qfx.vocab import OpDef, bound, is_op
from qfx_passes.accuracy.corrected_layers import corrected_spec, originals
from qfx_passes.accuracy.replacing import replace_parameter
from qfx_passes.accuracy.two_streams import Streams
from qfx_passes.accuracy.walk import walk
from qfx_passes.accuracy.watching import samples_of


class MatchMeans(Pass):
    """Move biases until the means of outputs are those of the float graph."""

    name = "match-means"
    keeps_values = False
    requires = Level.OBSERVED
    room: ClassVar[Room] = Room(size=2**25)  # 55 images of 224 x 224, as far as 8 batches hold them

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        means = ctx.get(Means) if ctx.has(Means) else None
        if means is None or means.is_used:  # no pass before this one has taken it along
            means = Means(graph, ctx)
            samples = [] if means.is_done else samples_of(ctx)
            if samples:
                walk(ctx, samples, [means])
        means.is_used = True
        ctx.near_misses.extend(NearMiss(f"{self.name}/layer", *why) for why in means.stays)
        for node, (by, gain) in means.shifts.items():
            old = bound(node)["bias"]
            held = ctx.rewriter.tensor(old).detach()
            bias = (held.double() + by).to(held.dtype)
            originals(ctx).biases.setdefault(node, held)
            mark_making_up(node, (bias - held).tolist())
            with ctx.rewriter.named(f"error of the means x {gain:.2f}"):
                replace_parameter(node, old, bias, ctx.rewriter)


def means_ahead(ctx: PassContext, kind: type[Pass]) -> list[Means]:
    """What a pass of a kind takes along on its walk, if match-means comes right after those."""
    ahead = [step for step in ctx.ahead if not isinstance(step, kind)]
    if not ahead or not isinstance(ahead[0], MatchMeans):
        return []
    means = Means(ctx.rewriter.graph, ctx)
    ctx.put(means)
    return [means]


class Means:
    """On a walk, finds by how much biases are to be moved.

    Attributes:
        shifts: by layer, what its bias is to be moved by, and how much less means then err.
        stays: names of layers that stay as they are, and why.
        is_used: whether biases were moved.
    """

    def __init__(self, graph: fx.Graph, ctx: PassContext) -> None:
        self.shifts: dict[fx.Node, tuple[Tensor, float]] = {}
        self.stays: list[tuple[str, str]] = []
        self.is_used = False
        self._rewriter = ctx.rewriter
        self._left = set(self._layers(graph))

    @property
    def is_done(self) -> bool:
        """Whether all layers were come by."""
        return not self._left

    def _layers(self, graph: fx.Graph) -> Iterator[fx.Node]:
        """Convolutions that read integers whose ranges are known, each with a bias of its own."""
        readers = Counter(str(n.target) for n in graph.nodes if n.op == "get_attr")
        for node in graph.nodes:
            note = annotation(node)
            if corrected_spec(node) is None or note is None or note.method != "static":
                continue
            if not is_op(node, *vocab.CONVOLUTIONS):
                continue  # see the module's first lines
            bias = bound(node)["bias"]
            if not isinstance(bias, fx.Node):
                continue
            if readers[str(bias.target)] > 1 or len(bias.users) > 1:
                self.stays.append((node.name, "its bias is shared"))
                continue
            yield node

    def act(self, node: fx.Node, streams: Streams) -> None:
        """Measure how far means of a layer are off, and move them in the rounded model."""
        if node not in self._left:
            return
        self._left.remove(node)
        if not streams.rounds(node):
            return
        shifts = _shifts(node, streams)
        if len(shifts) < 2:
            why = "one sample tells nothing of others, here and behind"
            self.stays.append((node.name, why))
            self._left.clear()
            return
        by, gain = _correction(shifts)
        bias = self._rewriter.tensor(bound(node)["bias"])
        by = torch.where(bias == 0, 0.0, by)
        if gain < 1 and by.any():
            self.shifts[node] = by, gain
            streams.shift(node, by)
        else:
            why = f"means of other samples would not be nearer (x {gain:.2f})"
            self.stays.append((node.name, why))


def _shifts(layer: fx.Node, streams: Streams) -> Tensor:
    """(N, C) by how much each sample's means of channels are too small, before post-ops."""
    assert isinstance(layer.target, OpDef)
    axis = layer.target.channel_axis
    assert axis is not None
    pairs = streams.products(layer)
    return torch.cat([_means(exact, axis) - _means(rounded, axis) for exact, rounded in pairs])


def _correction(shifts: Tensor) -> tuple[Tensor, float]:
    """What to add to the bias, and the error that is left of means of samples not chosen by."""
    if not shifts.isfinite().all():
        return torch.zeros_like(shifts[0]), 1.0
    judging = shifts[1::2].mean(0)
    before = float(judging.square().sum())
    after = float((judging - _counted(shifts[::2])).square().sum())
    return _counted(shifts), after / before if before > 0 else 1.0


def _means(y: Tensor, axis: int) -> Tensor:
    """(N, C) float64 means of the channels of each sample."""
    batched = y if y.dim() > -axis else y.unsqueeze(0)
    return batched.flatten(2).float().mean(2).double()


def _counted(shifts: Tensor) -> Tensor:
    """(C,) mean of (N, C) shifts, as far as it is more than chance."""
    mean = shifts.mean(0)
    noise = shifts.var(0, correction=0) / len(shifts)
    return mean * mean.square() / (mean.square() + noise).clamp(min=1e-300)
