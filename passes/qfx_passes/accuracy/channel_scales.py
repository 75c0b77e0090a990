"""Scales of channels, moved from an activation into the weights that read it.

    W x  =  (W diag(s)) (x / s)                 s > 0

What makes x absorbs 1 / s, so that the channels of x / s have ranges that are alike, which a
rounding that is the same for all of them wants (Xiao et al. 2022, arXiv:2211.10438). In return the
columns of W grow apart. How much of one to take for the other is measured: several s
(:mod:`qfx_passes.accuracy.scale_candidates`) are put through the operations that read x, on rows of
the batches that calibration kept (:mod:`qfx_passes.accuracy.kept_rows`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from qfx.quant.annotation import annotation
from qfx.quant.observers import HistogramObserver, MinMaxObserver, Observer
from qfx.quant.qparams import QParams, choose_qparams, quantize_weight
from qfx.quant.recorders import observer_of
from qfx.quant.spec import QuantSpec
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import bound
from qfx_passes.accuracy.kept_rows import KeptBatch, KeptRows
from qfx_passes.accuracy.output_errors import OutputErrors
from qfx_passes.accuracy.replacing import replace_observer, replace_parameter
from qfx_passes.accuracy.scalable_activations import ScalableActivation
from qfx_passes.accuracy.scale_candidates import WeightColumns, candidates
from qfx_passes.placement.calibrated import calibrated_qparams

_DOUBT = 128  # values of a channel that say half of what there is to know of its peak
_DEARER = 1.5  # how far an output as a whole may err more where its channels err less
_ROOM = 32  # values of a channel that ask for a range of twice what was seen
_BEYOND = 1.25  # how far calibration may have seen more than the batches that were kept


def weight_spec(reader: fx.Node) -> QuantSpec:
    """How the weight of a reader is quantized."""
    note = annotation(reader)
    assert note is not None
    assert note.weight is not None
    return note.weight


def _columns(site: ScalableActivation, rw: Rewriter) -> WeightColumns:
    powers, peaks = torch.zeros_like(site.recorder.peak), torch.zeros_like(site.recorder.peak)
    for reader, _ in site.readers:
        weight = rw.tensor(bound(reader)["weight"]).detach()
        groups = bound(reader).get("groups", 1)
        taps = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1).float()
        powers += taps.square().sum((1, 3)).flatten()
        ends = torch.maximum(taps.amax((1, 3)), -taps.amin((1, 3)))
        peaks = torch.maximum(peaks, ends.flatten())
    return WeightColumns(powers.sqrt(), peaks)


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

    First the range of each is found.
    """
    for site in sites:
        batches = kept.of(site)
        _start(site, batches, rw)
        ranges = [] if site.measured else site.ranges
        qparams = [calibrated_qparams(site.observers[0], observer) for observer in ranges]
        weights = {reader: _rounded_weights(site, reader, kept, rw) for reader, _ in site.readers}
        for batch in batches:
            if batch.positions:
                _try(site, batch, qparams, weights)


def _start(site: ScalableActivation, batches: Sequence[KeptBatch], rw: Rewriter) -> None:
    power, count = torch.zeros_like(site.recorder.peak), 0
    for batch in batches:
        power += batch.powers().to(power)
        count += batch.positions
    rms = (power / max(count, 1)).sqrt()
    site.candidates = candidates(site.recorder.peak, rms, _columns(site, rw))
    site.errors = torch.zeros(2, 2, len(site.candidates), dtype=torch.float64)
    if site.measured is None:
        old = observer_of(site.observers[0])
        assert isinstance(old, Observer)
        others = (_range(site, old, each.scale, batches) for each in site.candidates[1:])
        site.ranges = [old, *others]


def _range(
    site: ScalableActivation, like: Observer, scale: Tensor, batches: Sequence[KeptBatch]
) -> Observer:
    """An observer that saw a value over a scale, and somewhat more.

    All channels that are evened out may go beyond what was seen of them, each by as much in
    proportion to the range as the largest alone did before, and the fewer values were seen the
    more. None stands out that would be worth clipping, so no search is made for that.
    """
    kind = MinMaxObserver if isinstance(like, HistogramObserver) else type(like)
    observer = kind(like.spec).to(like.batches.device)
    beyond = min(max(1.0, _beyond(site, scale, batches)), _BEYOND)
    room = beyond * (1 + _ROOM / int(site.recorder.count))
    for batch in batches:
        scaled = batch.rows / along_channels(site.readers[0][0], scale, batch.rows)
        ends = torch.stack(_ends(batch, scale)) * room
        observer.observe(torch.cat([scaled.flatten(), ends]))
    return observer


def _beyond(site: ScalableActivation, scale: Tensor, batches: Sequence[KeptBatch]) -> float:
    """How much farther all that calibration saw reaches than what was kept, over a scale."""
    top = max(float(torch.stack(_ends(batch, scale)).abs().amax()) for batch in batches)
    return float((site.recorder.peak / scale.to(site.recorder.peak)).amax()) / top if top else 1.0


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
    for _, scale in site.candidates:
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
    for i, (_, scale) in enumerate(site.candidates):
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


def chosen(site: ScalableActivation, kept: KeptRows) -> tuple[int, float]:
    """The candidate that errs least, and its error relative to no scale, on other rows.

    The error counts for more where few values of a channel were seen: others have larger ones.
    Every second row of an output chooses, the others judge; as a whole none may err much more.
    Where calibration saw much more than the batches that were kept tell, they don't tell the range
    of a candidate either: none is chosen, unless ranges are measured when the model runs.
    """
    (choosing, _), (judging, _) = site.errors
    near = (site.errors[:, 1] <= _DEARER * site.errors[:, 1, :1]).all(0)
    best = int(torch.where(near, choosing, torch.inf).argmin())
    scale = site.candidates[best].scale
    if site.measured is None and _beyond(site, scale, kept.of(site)) > _BEYOND:
        return 0, 1.0
    doubt = 1 + _DOUBT / int(site.recorder.count)
    return best, float(judging[best] / judging[0]) * doubt if judging[0] > 0 else 1.0


def apply(site: ScalableActivation, number: int, rw: Rewriter) -> None:
    """Let readers absorb a candidate; what makes the value must be given 1 / scale beside this."""
    scale = site.candidates[number].scale
    for reader, _ in site.readers:
        node = bound(reader)["weight"]
        weight = scaled_weight(reader, rw.tensor(node), scale)
        replace_parameter(reader, node, weight, rw)
    site.recorder.total /= scale.to(site.recorder.total)
    site.recorder.peak /= scale.to(site.recorder.peak)
    if site.measured is None:
        name = str(site.observers[0].target)
        replace_observer(name, site.observers, site.ranges[number], rw)
