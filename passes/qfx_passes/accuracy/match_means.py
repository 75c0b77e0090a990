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
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph.steps import state_kept
from qfx.history.events import NearMiss
from qfx.quant.annotation import annotation, mark_making_up
from qfx.runtime.samples import Room, Sample
from qfx.verification.outputs import RECORDERS
from qfx.vocab import OpDef, bound, is_op
from qfx_passes.accuracy.corrected_layers import corrected_spec, originals
from qfx_passes.accuracy.replacing import replace_parameter
from qfx_passes.accuracy.two_streams import Streams
from qfx_passes.accuracy.watching import samples_of
from qfx_passes.weights import quantized_weights


class MatchMeans(Pass):
    """Move biases until the means of outputs are those of the float graph."""

    name = "match-means"
    keeps_values = False
    requires = Level.OBSERVED
    room: ClassVar[Room] = Room(size=2**25)  # 55 images of 224 x 224, as far as 8 batches hold them

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        layers = list(_layers(graph, ctx))
        samples = samples_of(ctx) if layers else []
        if not samples:
            return
        with state_kept(ctx.graph_module, RECORDERS):
            biases = _matched(ctx, samples, layers)
        for node, (bias, gain) in biases.items():
            old = bound(node)["bias"]
            held = ctx.rewriter.tensor(old).detach()
            originals(ctx).biases.setdefault(node, held)
            mark_making_up(node, (bias - held).tolist())
            with ctx.rewriter.named(f"error of the means x {gain:.2f}"):
                replace_parameter(node, old, bias, ctx.rewriter)


def _layers(graph: fx.Graph, ctx: PassContext) -> Iterator[fx.Node]:
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
            _stays(node, "its bias is shared", ctx)
            continue
        yield node


def _stays(node: fx.Node, reason: str, ctx: PassContext) -> None:
    rule = f"{ctx.rewriter.pass_name}/layer"
    ctx.near_misses.append(NearMiss(rule, node.name, reason))


def _matched(
    ctx: PassContext, samples: Sequence[Sample], layers: Sequence[fx.Node]
) -> dict[fx.Node, tuple[Tensor, float]]:
    """The bias that each layer is to have, and how much less means then err."""
    graph_module = ctx.graph_module
    streams = Streams(graph_module, samples, originals(ctx).arguments())
    wanted, found = set(layers), {}
    for node in graph_module.graph.nodes:
        weight = _rounded_weight(node, ctx)
        if weight is not None:
            streams.give(node, weight=weight)
        if node in wanted and weight is not None:
            bias = ctx.rewriter.tensor(bound(node)["bias"]).detach()
            shifts = _shifts(node, streams)
            if len(shifts) < 2:
                _stays(node, "one sample tells nothing of others, here and behind", ctx)
                break
            by, gain = _correction(shifts)
            by = torch.where(bias == 0, 0.0, by)
            if gain < 1 and by.any():
                found[node] = (bias.double() + by).to(bias.dtype), gain
                streams.shift(node, by)
            else:
                _stays(node, f"means of other samples would not be nearer (x {gain:.2f})", ctx)
        if node is layers[-1]:
            break
        streams.step(node)
    return found


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


def _rounded_weight(node: fx.Node, ctx: PassContext) -> Tensor | None:
    """The weight of a layer as it will be."""
    spec = corrected_spec(node)
    weight = bound(node)["weight"] if spec is not None else None
    if spec is None or not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return None
    tensor = ctx.rewriter.tensor(weight)
    integers, qparams = quantized_weights(ctx).get(str(weight.target), tensor, spec)
    return qparams.dequantize(integers, tensor.dtype)
