"""gptq: round the weights of a layer one input after another, and let the others make up for it.

With H = E[x' x'^T] of what the layer reads once all before it is rounded, each column is rounded in
turn, those that matter most (diagonal of H) first, and what that errs is taken out of the columns
that are still to come (Frantar et al. 2022, arXiv:2210.17323):

    e = (w_i - q_i) / U_ii,    w_j -= e U_ij  for j > i,    U^T U = H^-1

Before that, in closed form, a ridge step lets the weight make up for the rounding of activations as
well (ERQ, Zhong et al. 2024, arXiv:2407.06794): with C = E[x x'^T] it is

    W' = argmin E |W x - W' x'|^2 + l |W' - W|^2 = W (C + l I) (H + l I)^-1

What columns have come to is then made better one code and one scale at a time
(:mod:`qfx_passes.accuracy.code_descent`); it starts from the scales that the spec's observer finds.

Moments are about the means, and the bias is given what is off on average. Layers are taken in the
order of the graph, each on what those before it have come to. What is added to the diagonal of H,
and l, are as large as its mean: moments of few images or sentences say less of others than they
seem to, and batches of the same source don't tell (docs/accuracy.md). Rounding to the nearest code,
and all of the above, are held against each other on batches that neither has seen; a layer for
which the first does as well, on either half of these, stays as it is. So does one whose weight
would be another: in networks that amplify noise the ridge step would all but take off what arrives.
What is chosen is done again by all batches.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.graph.findings import findings
from qfx.history.events import NearMiss
from qfx.numerics.measures import explained_by
from qfx.runtime.samples import Room, first_of
from qfx.vocab import bound, is_op
from qfx_passes.accuracy.match_means import means_ahead
from qfx_passes.accuracy.rounded_layers import Layer, Rounding, layer_of, nearest, take
from qfx_passes.accuracy.rounding_in_turn import rounded_by
from qfx_passes.accuracy.second_moments import Moments, patches
from qfx_passes.accuracy.two_streams import Streams
from qfx_passes.accuracy.walk import walk
from qfx_passes.accuracy.watching import samples_of

_GAIN = 0.98  # of the error of rounding to the nearest code
_AS_LITTLE = "the nearest codes err as little on other batches"
_TOO_FAR = "its codes would be further from the weight than their bits explain"
_TOO_FEW = "calibration kept too little to choose by and to judge by"


@dataclass(frozen=True)
class Gptq(Pass):
    """Choose the codes of weights by what their layers yield.

    Attributes:
        damping: l, and what is added to the diagonal of H, relative to its mean.
        sweeps: at most so many over the codes and scales of a layer; 0 leaves them as they come.
        windows: where that is not 0, convolutions alone of which an output reads at most so many
            values, and that have several outputs for an image: few images say all about these, at
            little cost.
        batches: of calibration that are kept for it, at most.
        mib: of these, in MiB; it measures on no more than the first ones that reach it.
    """

    name = "gptq"
    requires = Level.OBSERVED
    keeps_values = False
    damping: float = 1.0
    sweeps: int = 4
    windows: int = 0
    batches: int = 64
    mib: int = 64

    @property
    def room(self) -> Room:
        """How much of calibration is kept for it."""
        return Room(self.batches, self.mib * 2**20)

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        owners = Counter(str(n.target) for n in graph.nodes if n.op == "get_attr")
        layers = self._layers(graph, owners, ctx)
        samples = samples_of(ctx) if layers else []
        if not samples:
            return
        own = len(list(first_of(samples, self.room.size)))
        choice = _Choice(self, layers, own, ctx)
        means = means_ahead(ctx, Gptq)
        walk(ctx, samples if means else samples[:own], [choice, *means])
        for layer, chosen in choice.found:
            take(layer, chosen, ctx)
            ctx.record(layer.node, self.name, f"error x {chosen.ratio:.2f}")

    def _layers(
        self, graph: fx.Graph, owners: Counter[str], ctx: PassContext
    ) -> dict[fx.Node, Layer]:
        """Those to choose codes for; of the others is told why not."""
        found = {}
        for node in graph.nodes:
            if self.windows and not _reads_at_most(node, self.windows):
                continue
            layer = layer_of(node, owners, ctx)
            if isinstance(layer, str):
                if layer:
                    ctx.near_misses.append(NearMiss(self.name, node.name, layer))
            elif self.name not in dict(findings(node)):  # else it has codes that were chosen
                found[node] = layer
        return found


class _Choice:
    """On a walk, chooses the codes of layers.

    Args:
        options: of the pass.
        layers: by node, in the order of the graph.
        batches: how many are measured on, the first ones.
        ctx: what the pass may use.

    Attributes:
        found: layers, and the codes that they are to have in place of the nearest ones.
    """

    def __init__(
        self, options: Gptq, layers: Mapping[fx.Node, Layer], batches: int, ctx: PassContext
    ) -> None:
        self.found: list[tuple[Layer, Rounding]] = []
        self._options, self._batches, self._ctx = options, batches, ctx
        self._left = dict(layers)

    @property
    def is_done(self) -> bool:
        """Whether all layers were come by."""
        return not self._left

    def act(self, node: fx.Node, streams: Streams) -> None:
        """Choose how a layer is rounded, which the rounded model then is."""
        layer = self._left.pop(node, None)
        if layer is None:
            return
        made = self._chosen(layer, streams)
        if isinstance(made, str):
            self._ctx.near_misses.append(NearMiss(self._options.name, node.name, made))
            return
        self.found.append((layer, made))
        streams.give(node, weight=layer.shaped(made.weight), bias=made.flat_bias)

    def _chosen(self, layer: Layer, streams: Streams) -> Rounding | str:
        """Codes for a layer, or why it keeps the nearest ones."""
        pairs = list(islice(streams.values(bound(layer.node)["input"]), self._batches))
        fit, judges = _moments(layer, pairs)
        if not fit.count:
            return _TOO_FEW
        base = _errors(layer, nearest(layer, self._ctx), judges)
        if not (base > 0).all():
            return _AS_LITTLE
        tried = self._rounded(layer, fit)
        errors = _errors(layer, tried, judges)
        if not (errors <= base).all() or errors.sum() > _GAIN * base.sum():
            return _AS_LITTLE
        if not _stays_near(layer, tried, fit):
            return _TOO_FAR
        for judge in judges:
            fit.join(judge)
        best = self._rounded(layer, fit)
        best.ratio = float(errors.sum() / base.sum())
        return best

    def _rounded(self, layer: Layer, moments: Moments) -> Rounding:
        options = self._options
        return rounded_by(layer, moments, damping=options.damping, sweeps=options.sweeps)


def _reads_at_most(node: fx.Node, size: int) -> bool:
    """Whether it is a convolution of which each of several outputs reads so many values, or fewer.

    What reads pooled images (squeeze-and-excitation) has one output for each of few images.
    """
    weight = bound(node)["weight"] if is_op(node, *vocab.CONVOLUTIONS) else None
    info = meta.tensor_info(weight) if isinstance(weight, fx.Node) else None
    made = meta.tensor_info(node)
    if info is None or made is None or math.prod(made.shape[2 - len(info.shape) :]) == 1:
        return False
    return info.numel <= size * info.shape[0]


def _stays_near(layer: Layer, made: Rounding, fit: Moments) -> bool:
    """Whether the weight yields, of exact values, what it should, as far as its bits explain."""
    error = fit.exact_power(layer.weight - made.weight, means=layer.bias_is_free)
    power = fit.exact_power(layer.weight, means=False)
    low, high = layer.spec.bounds
    least = explained_by(math.log2(high - low + 1))
    return bool(error <= power * 10 ** (-least / 10))


def _moments(layer: Layer, pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Moments, list[Moments]]:
    """The moments to choose codes by, and two halves of those to judge them by.

    Every fourth batch judges; of few batches, each gives its second half: neighbours in one image
    tell little of others.
    """
    groups, _, size = layer.weight.shape
    fit, *judges = (Moments.none(groups, size, layer.weight.device) for _ in range(3))
    few = len(pairs) < 4
    for number, pair in enumerate(pairs):
        exact, rounded = (patches(layer.node, value) for value in pair)
        end = exact.shape[2]
        begin = end // 2 if few else 0 if number % 4 == 3 else end
        middle = (begin + end) // 2
        fit.add(exact[..., :begin], rounded[..., :begin])
        judges[0].add(exact[..., begin:middle], rounded[..., begin:middle])
        judges[1].add(exact[..., middle:], rounded[..., middle:])
    return fit, judges


def _errors(layer: Layer, made: Rounding, judges: Sequence[Moments]) -> Tensor:
    """How far each half of what judges is off, weighed by how much it is; 0 of nothing."""
    found = [
        each.error(layer.weight, layer.bias, made.weight, made.bias) * each.count for each in judges
    ]
    return torch.tensor(found, dtype=torch.float64)
