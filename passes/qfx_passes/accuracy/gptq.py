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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx
from tqdm import tqdm

from qfx import vocab
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.graph.steps import state_kept
from qfx.history.events import NearMiss
from qfx.numerics.measures import explained_by
from qfx.quant.qparams import QParams, quantize_weight
from qfx.runtime.samples import Progress, Room, first_of
from qfx.verification.outputs import RECORDERS
from qfx.vocab import bound, is_op
from qfx_passes.accuracy.code_descent import ScaledCodes, descend
from qfx_passes.accuracy.corrected_layers import originals
from qfx_passes.accuracy.rounded_layers import (
    Layer,
    Rounding,
    corrected_bias,
    layer_of,
    take,
)
from qfx_passes.accuracy.second_moments import Moments, applied, patches
from qfx_passes.accuracy.two_streams import Streams
from qfx_passes.accuracy.watching import samples_of
from qfx_passes.weights import QuantizedWeights, quantized_weights

_GAIN = 0.98  # of the error of rounding to the nearest code
_BLOCK = 128
_DIGITS = 1e-5  # of sums of products in float32
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
        left = self._layers(graph, owners, ctx)
        samples = list(first_of(samples_of(ctx), self.room.size)) if left else []
        if not samples:
            return
        weights, done = quantized_weights(ctx), originals(ctx)
        found: list[tuple[Layer, Rounding]] = []
        shown = (ctx.get(Progress) if ctx.has(Progress) else Progress(None)).is_shown
        with state_kept(ctx.graph_module, RECORDERS):
            streams = Streams(ctx.graph_module, samples, done.arguments())
            for node in tqdm(graph.nodes, desc=self.name, disable=not shown):
                layer = layer_of(node, owners, ctx.rewriter) if node in left else ""
                if isinstance(layer, Layer) and node in done.biases:
                    held = _nearest(layer, weights)  # its codes are chosen, whatever they are
                    streams.give(node, weight=layer.shaped(held.weight))
                elif isinstance(layer, Layer):
                    chosen = self._choose(layer, streams, weights, ctx)
                    if chosen is not None:
                        found.append((layer, chosen))
                left.discard(node)
                if left:
                    streams.step(node)
        for layer, chosen in found:
            take(layer, chosen, ctx)
            ctx.record(layer.node, "gptq", f"error x {chosen.ratio:.2f}")

    def _layers(self, graph: fx.Graph, owners: Counter[str], ctx: PassContext) -> set[fx.Node]:
        """Those to choose codes for; of the others is told why not."""
        found = set()
        for node in graph.nodes:
            if self.windows and not _reads_at_most(node, self.windows):
                continue
            layer = layer_of(node, owners, ctx.rewriter)
            if isinstance(layer, Layer):
                found.add(node)
            elif layer:
                ctx.near_misses.append(NearMiss(self.name, node.name, layer))
        return found

    def _choose(
        self, layer: Layer, streams: Streams, weights: QuantizedWeights, ctx: PassContext
    ) -> Rounding | None:
        """How a layer is rounded, which the rounded model then is; None for the nearest codes."""
        fit, judges = _moments(layer, streams)
        nearest = _nearest(layer, weights)
        base = _errors(layer, nearest, judges)
        reason = _AS_LITTLE if fit.count else _TOO_FEW
        if fit.count and (base > 0).all():
            tried = self._rounded(layer, fit)
            errors = _errors(layer, tried, judges)
            if (errors <= base).all() and errors.sum() <= _GAIN * base.sum():
                reason = "" if _stays_near(layer, tried, fit) else _TOO_FAR
        if reason:
            streams.give(layer.node, weight=layer.shaped(nearest.weight), bias=nearest.flat_bias)
            ctx.near_misses.append(NearMiss(self.name, layer.node.name, reason))
            return None
        for judge in judges:
            fit.join(judge)
        best = self._rounded(layer, fit)
        streams.give(layer.node, weight=layer.shaped(best.weight), bias=best.flat_bias)
        best.ratio = float(errors.sum() / base.sum())
        return best

    def _rounded(self, layer: Layer, moments: Moments) -> Rounding:
        _, mixed, rounded = moments.about(means=layer.bias_is_free)
        power = moments.about(means=False)[2].diagonal(dim1=1, dim2=2).mean(1)
        damping = self.damping * rounded.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
        damping = damping + _DIGITS * power  # moments about means are no nearer than that
        eye = damping.reshape(-1, 1, 1) * torch.eye(
            rounded.shape[1], dtype=rounded.dtype, device=rounded.device
        )
        damped = rounded + eye
        target = torch.linalg.solve(damped, (layer.weight @ (mixed + eye)).mT).mT
        integers, qparams = quantize_weight(layer.shaped(target), layer.spec)
        unit = layer.grouped(qparams.dequantize(torch.ones_like(integers)).double())
        codes = rounded_in_turn(target / unit, damped, qparams.quant_min, qparams.quant_max)
        if self.sweeps:
            start = ScaledCodes(codes, unit)
            codes, qparams = self._descended(layer, start, qparams, target, damped)
        return _with_bias(layer, layer.shaped(codes).to(integers.dtype), qparams, moments)

    def _descended(
        self, layer: Layer, start: ScaledCodes, qparams: QParams, target: Tensor, damped: Tensor
    ) -> tuple[Tensor, QParams]:
        """Better codes, and scales where each output has its own."""
        bounds, scale = (qparams.quant_min, qparams.quant_max), qparams.scale
        sweeps = self.sweeps
        if not isinstance(scale, Tensor) or qparams.axis != 0 or layer.spec.power_of_two:
            made = descend(start, target, damped, *bounds, sweeps=sweeps, moves_scales=False)
            return made.codes, qparams
        start = ScaledCodes(start.codes, scale.double().reshape(*start.codes.shape[:2], -1))
        made = descend(start, target, damped, *bounds, sweeps=sweeps)
        return made.codes, replace(qparams, scale=made.scales.reshape(scale.shape).to(scale.dtype))


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
    exact, *_ = fit.about(means=False)
    moved, *_ = fit.about(means=layer.bias_is_free)
    change = layer.weight - made.weight
    error, power = ((w @ m * w).sum() for w, m in ((change, moved), (layer.weight, exact)))
    low, high = layer.spec.bounds
    least = explained_by(math.log2(high - low + 1))
    return bool(error <= power * 10 ** (-least / 10))


def _moments(layer: Layer, streams: Streams) -> tuple[Moments, list[Moments]]:
    """The moments to choose codes by, and two halves of those to judge them by.

    Every fourth batch judges; of few batches, each gives its second half: neighbours in one image
    tell little of others.
    """
    groups, _, size = layer.weight.shape
    fit, *judges = (Moments.none(groups, size, layer.weight.device) for _ in range(3))
    few = len(streams) < 4
    for number, pair in enumerate(streams.values(bound(layer.node)["input"])):
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


def _nearest(layer: Layer, weights: QuantizedWeights) -> Rounding:
    """The nearest codes, and the bias that correct-bias gives them."""
    integers, qparams = weights.get(layer.name, layer.original, layer.spec)
    weight = qparams.dequantize(integers)
    return Rounding(
        integers, qparams, layer.grouped(weight.double()), corrected_bias(layer, weight)
    )


def _with_bias(layer: Layer, integers: Tensor, qparams: QParams, moments: Moments) -> Rounding:
    """Codes, and the bias that makes up for what they are off on average."""
    weight = layer.grouped(qparams.dequantize(integers).double())
    exact, rounded = moments.means()
    if not layer.bias_is_free:
        return Rounding(integers, qparams, weight, layer.bias)
    bias = layer.bias + applied(layer.weight, exact) - applied(weight, rounded)
    return Rounding(integers, qparams, weight, bias, applied(layer.weight, exact - rounded))


def rounded_in_turn(weight: Tensor, moments: Tensor, low: int, high: int) -> Tensor:
    """(G, O, K) codes of a weight in units of its scales.

    Args:
        weight: (G, O, K) over the scales.
        moments: (G, K, K) H, damped.
        low: smallest code.
        high: largest code.
    """
    order = moments.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    across = order.unsqueeze(1).expand_as(weight)
    left = weight.gather(2, across)
    square = order.unsqueeze(2).expand_as(moments)
    moments = moments.gather(1, square).gather(2, square.mT)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    factor = torch.linalg.cholesky(inverse, upper=True)
    codes = torch.empty_like(left)
    for begin, end in _blocks(weight.shape[2]):
        errors = torch.empty_like(left[..., begin:end])
        for i in range(begin, end):
            column = left[..., i]
            codes[..., i] = column.round().clamp(low, high)
            errors[..., i - begin] = (column - codes[..., i]) / factor[:, i, i].unsqueeze(1)
            left[..., i:end] -= errors[..., i - begin, None] * factor[:, None, i, i:end]
        left[..., end:] -= errors @ factor[:, begin:end, end:]
    return torch.empty_like(codes).scatter_(2, across, codes)


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, size, _BLOCK):
        yield begin, min(begin + _BLOCK, size)
