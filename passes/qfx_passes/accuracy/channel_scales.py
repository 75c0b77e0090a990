"""Scales of channels, moved from an activation into the weights that read it.

    W x  =  (W diag(s)) (x / s)                 s > 0, of powers of two: not one bit changes

What makes x absorbs 1 / s, so that the channels of x / s have ranges that are alike, which a
rounding that is the same for all of them wants. In return the columns of W grow apart. How much of
one to take for the other is measured: ``s = peak(x)^a / peak(W)^(1 - a)`` for several a (Xiao et
al. 2022, arXiv:2211.10438, section 4), each put through the operations that read x, on rows of the
batches that calibration kept (:mod:`qfx_passes.accuracy.kept_rows`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from qfx.quant.annotation import annotation
from qfx.quant.observers import Observer
from qfx.quant.qparams import QParams, choose_qparams, quantize_weight
from qfx.quant.recorders import observer_of
from qfx.quant.spec import QuantSpec
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import bound
from qfx_passes.accuracy.kept_rows import KeptBatch, KeptRows
from qfx_passes.accuracy.output_errors import OutputErrors
from qfx_passes.accuracy.replacing import replace_observer, replace_parameter
from qfx_passes.accuracy.scalable_activations import ScalableActivation
from qfx_passes.placement.calibrated import qparams_of

ALPHAS = (0.5, 0.75, 0.9)
_DOUBT = 128  # values of a channel that say half of what there is to know of its peak
_DEARER = 1.5  # how far an output as a whole may err more where its channels err less
_BEYOND = 1.25  # how far calibration may have seen more than the batches that were kept


def weight_spec(reader: fx.Node) -> QuantSpec:
    """How the weight of a reader is quantized."""
    note = annotation(reader)
    assert note is not None
    assert note.weight is not None
    return note.weight


def column_peaks(site: ScalableActivation, rw: Rewriter) -> Tensor:
    """(C,) largest magnitude of the weights that read each channel."""
    found = torch.zeros_like(site.recorder.peak)
    for reader, _ in site.readers:
        weight = rw.tensor(bound(reader)["weight"]).detach()
        groups = bound(reader).get("groups", 1)
        taps = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        ends = torch.maximum(taps.amax((1, 3)), -taps.amin((1, 3)))
        found = torch.maximum(found, ends.flatten().float())
    return found


def scaled_weight(reader: fx.Node, weight: Tensor, scale: Tensor) -> Tensor:
    """``weight`` with what reads each channel multiplied by its scale."""
    groups = bound(reader).get("groups", 1)
    grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    factors = scale.to(weight.dtype).reshape(groups, 1, weight.shape[1], 1)
    return (grouped * factors).reshape(weight.shape)


def along_channels(reader: fx.Node, scale: Tensor, value: Tensor) -> Tensor:
    """``scale`` shaped to multiply the channels of what ``reader`` reads."""
    behind = -1 - reader.target.channel_axis  # type: ignore[union-attr]
    return scale.to(value.dtype).reshape(-1, *(1,) * behind)


@torch.no_grad()
def measure(sites: Sequence[ScalableActivation], kept: KeptRows, rw: Rewriter) -> None:
    """Put the candidates of every site through what reads it, rounded as they would be.

    First the range of each is found: of the extremes of all rows, and the rows that were kept.
    """
    for site in sites:
        _start(site, rw)
        batches = kept.of(site)
        for batch in batches:
            _observe(site, batch)
        ranges = [] if site.measured else site.ranges
        qparams = [qparams_of(site.observers[0], observer) for observer in ranges]
        weights = {reader: _rounded_weights(site, reader, kept, rw) for reader, _ in site.readers}
        for batch in batches:
            if batch.positions:
                _try(site, batch, qparams, weights)


def _start(site: ScalableActivation, rw: Rewriter) -> None:
    site.candidates = candidates(site, rw)
    site.errors = torch.zeros(2, 2, len(site.candidates), dtype=torch.float64)
    site.tops = [0.0 for _ in site.candidates]
    if site.measured is not None:
        return
    old = observer_of(site.observers[0])
    assert isinstance(old, Observer)
    others = (type(old)(old.spec).to(old.batches.device) for _ in site.candidates[1:])
    site.ranges = [old, *others]


def _observe(site: ScalableActivation, batch: KeptBatch) -> None:
    """Let observers of candidates see the rows of a batch, and its extremes."""
    if site.measured is not None:
        return
    reader = site.readers[0][0]
    for i, scale in enumerate(site.candidates):
        ends = torch.stack(_ends(batch, scale))
        site.tops[i] = max(site.tops[i], float(ends.abs().amax()))
        if i > 0:
            scaled = batch.rows / along_channels(reader, scale, batch.rows)
            site.ranges[i].observe(torch.cat([scaled.flatten(), ends]))


def _ends(batch: KeptBatch, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of a batch, over a scale."""
    scale = scale.to(batch.low.dtype)
    return (batch.low / scale).amin(), (batch.high / scale).amax()


def _rounded_weights(
    site: ScalableActivation, reader: fx.Node, kept: KeptRows, rw: Rewriter
) -> list[Tensor]:
    """The weight of a reader with each candidate, of the channels that were kept."""
    weight, channels = rw.tensor(bound(reader)["weight"]).detach(), kept.channels[reader]
    weight, found = weight if channels is None else weight[channels], []
    for scale in site.candidates:
        integers, qparams = quantize_weight(
            scaled_weight(reader, weight, scale), weight_spec(reader)
        )
        found.append(qparams.dequantize(integers, weight.dtype))
    return found


def _try(
    site: ScalableActivation,
    batch: KeptBatch,
    qparams: Sequence[QParams],
    weights: Mapping[fx.Node, Sequence[Tensor]],
) -> None:
    """Add up how far outputs are off with each candidate, on one batch."""
    errors = {reader: OutputErrors(call.op, call.result) for reader, call in batch.calls.items()}
    for i, scale in enumerate(site.candidates):
        scaled = batch.rows / along_channels(site.readers[0][0], scale, batch.rows)
        steps = (
            qparams[i]
            if site.measured is None
            else choose_qparams(*_ends(batch, scale), site.measured)
        )
        rounded = steps.rounded(scaled)
        for reader, call in batch.calls.items():
            halves = errors[reader].halves(call.again(rounded, weights[reader][i]))
            site.errors[:, :, i] += halves.to(site.errors.device)


def chosen(site: ScalableActivation) -> tuple[int, float]:
    """The candidate that errs least, and its error relative to no scale, on other rows.

    The error counts for more where few values of a channel were seen: others have larger ones.
    Every second row of an output chooses, the others judge; as a whole none may err much more.
    Where calibration saw more than the batches that were kept tell, they don't tell the range of
    a candidate either: none is chosen, unless ranges are measured when the model runs.
    """
    (choosing, _), (judging, _) = site.errors
    near = (site.errors[:, 1] <= _DEARER * site.errors[:, 1, :1]).all(0)
    best = int(torch.where(near, choosing, torch.inf).argmin())
    if site.measured is None and _peak(site, best) > _BEYOND * site.tops[best]:
        return 0, 1.0
    doubt = 1 + _DOUBT / int(site.recorder.count)
    return best, float(judging[best] / judging[0]) * doubt if judging[0] > 0 else 1.0


def _peak(site: ScalableActivation, number: int) -> float:
    """The largest magnitude that calibration saw, with a candidate."""
    return float((site.recorder.peak / site.candidates[number].to(site.recorder.peak)).amax())


def candidates(site: ScalableActivation, rw: Rewriter) -> list[Tensor]:
    """(C,) scales to try: none, then one for each of :data:`ALPHAS`."""
    peaks, columns = (x.clamp(min=1e-6) for x in (site.recorder.peak, column_peaks(site, rw)))
    found = [torch.ones_like(peaks)]
    for alpha in ALPHAS:
        scale = peaks**alpha / columns ** (1 - alpha)
        found.append(powers_of_two(scale / scale.log().mean().exp()))
    return found


def powers_of_two(scale: Tensor) -> Tensor:
    """The nearest powers of two, within 2^-20 and 2^20; of channels without values, 1."""
    exponent = scale.clamp(min=2.0**-20, max=2.0**20).log2().round()
    return torch.where(scale > 0, 2.0**exponent, 1.0)


def apply(site: ScalableActivation, number: int, rw: Rewriter) -> None:
    """Let readers absorb a candidate; what makes the value must be given 1 / scale beside this."""
    scale = site.candidates[number]
    for reader, _ in site.readers:
        node = bound(reader)["weight"]
        weight = scaled_weight(reader, rw.tensor(node), scale)
        replace_parameter(reader, node, weight, rw)
    site.recorder.total /= scale.to(site.recorder.total)
    site.recorder.peak /= scale.to(site.recorder.peak)
    if site.measured is None:
        name = str(site.observers[0].target)
        replace_observer(name, site.observers, site.ranges[number], rw)
