"""Scales of channels, moved from an activation into the weights that read it.

    W x  =  (W diag(s)) (x / s)                 s > 0, of powers of two: not one bit changes

What makes x absorbs 1 / s, so that the channels of x / s have ranges that are alike, which a
rounding that is the same for all of them wants. In return the columns of W grow apart. How much of
one to take for the other is measured: ``s = peak(x)^a / peak(W)^(1 - a)`` for several a (Xiao et
al. 2022, arXiv:2211.10438, section 4), each put through the operations that read x, on batches that
calibration kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.quant.annotation import annotation
from qfx.quant.channel_mean import ChannelMean
from qfx.quant.observers import Observer
from qfx.quant.qparams import choose_qparams, quantize_weight
from qfx.quant.recorders import observer_of, recorder_of
from qfx.quant.spec import QuantSpec
from qfx.rewrite.rewriter import Rewriter
from qfx.runtime.samples import Sample
from qfx.vocab import bound, is_op
from qfx_passes.accuracy.output_errors import OutputErrors
from qfx_passes.accuracy.replacing import replace_observer, replace_parameter
from qfx_passes.accuracy.watching import Call, Look, watch

ALPHAS = (0.5, 0.75, 0.9)
_READERS = (*vocab.CONVOLUTIONS, vocab.LINEAR)


@dataclass
class Site:
    """An activation whose channels may be scaled.

    Attributes:
        value: what makes it.
        observers: the calls through which integer operations read it.
        recorder: that of its channels.
        readers: the operations whose weights absorb scales, and the node that each reads it by.
        others: what else reads the value, and by which node.
        candidates: (C,) scales that may be given to it; those of ones is the first.
        errors: by batch, the error of outputs with each candidate.
    """

    value: fx.Node
    observers: list[fx.Node]
    recorder: ChannelMean
    readers: list[tuple[fx.Node, fx.Node]]
    others: list[tuple[fx.Node, fx.Node]]
    candidates: list[Tensor] = field(default_factory=list)
    errors: list[Tensor] = field(default_factory=list)


def site_of(value: fx.Node, owners: Mapping[str, int]) -> Site | str:
    """What reads ``value``, if scales of its channels can be absorbed; else why not.

    Args:
        value: what an operation yields.
        owners: how many nodes read each parameter, by name.
    """
    observers = [user for user in value.users if observer_of(user) is not None]
    if not observers:
        return "nothing reads it in integers"
    if any(not isinstance(observer_of(o), Observer) for o in observers):
        return "it is rounded in training"
    if any(_calls(o) > 1 for o in observers):
        return "it shares its range with other values"
    recorders: dict[str, ChannelMean] = {}
    readers: list[tuple[fx.Node, fx.Node]] = []
    others: list[tuple[fx.Node, fx.Node]] = []
    for via in (value, *observers):
        for user in via.users:
            found = recorder_of(user)
            if found is not None:
                recorders[str(user.target)] = found
                pairs = [(reader, user) for reader in user.users]
            else:
                pairs = [] if user in observers else [(user, via)]
            for reader, read in pairs:
                (readers if _absorbs(reader, read) else others).append((reader, read))
    if len(recorders) != 1 or not readers:
        return "no layer with a weight reads it"
    (recorder,) = recorders.values()
    if not recorder.seen:
        return "calibration saw nothing of it"
    names = [str(bound(reader)["weight"].target) for reader, _ in readers]
    if any(owners[name] > 1 for name in names):
        return "a weight that reads it is shared"
    return Site(value, observers, recorder, readers, others)


def _calls(observer: fx.Node) -> int:
    return sum(n.target == observer.target for n in observer.graph.nodes if n.op == "call_module")


def _absorbs(reader: fx.Node, read: fx.Node) -> bool:
    """Whether ``reader`` multiplies what it reads by a constant weight, and by nothing else."""
    if not is_op(reader, *_READERS):
        return False
    arguments = bound(reader)
    weight = arguments["weight"]
    note = annotation(reader)
    return (
        arguments["input"] is read
        and isinstance(weight, fx.Node)
        and weight.op == "get_attr"
        and reader.all_input_nodes.count(read) == 1
        and note is not None
        and note.weight is not None
        and not any(read in operands for _, *operands in arguments.get("post", ()))
    )


def weight_spec(reader: fx.Node) -> QuantSpec:
    """How the weight of a reader is quantized."""
    note = annotation(reader)
    assert note is not None
    assert note.weight is not None
    return note.weight


def column_peaks(site: Site, rw: Rewriter) -> Tensor:
    """(C,) largest magnitude of the weights that read each channel."""
    found = torch.zeros_like(site.recorder.peak)
    for reader, _ in site.readers:
        columns = by_channel(reader, rw.tensor(bound(reader)["weight"]))
        found = torch.maximum(found, columns.abs().amax((1, 2)).float())
    return found


def by_channel(reader: fx.Node, weight: Tensor) -> Tensor:
    """(C, out / groups, taps) the weights that read each channel."""
    groups = bound(reader).get("groups", 1)
    taps = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return taps.transpose(1, 2).reshape(groups * weight.shape[1], -1, taps.shape[-1])


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


def measure(
    graph_module: fx.GraphModule, samples: Sequence[Sample], sites: Sequence[Site], rw: Rewriter
) -> None:
    """Put the candidates of every site through what reads it, batch by batch."""
    if not sites:
        return
    weights = {
        reader: [
            _rounded_weight(scaled_weight(reader, rw.tensor(bound(reader)["weight"]), c), reader)
            for c in site.candidates
        ]
        for site in sites
        for reader, _ in site.readers
    }
    for sample in samples:
        looks: dict[fx.Node, Look] = {}
        for site in sites:
            site.errors.append(torch.zeros(len(site.candidates), dtype=torch.float64))
            for reader, read in site.readers:
                looks[reader] = _look(site, read, weights[reader])
        watch(graph_module, sample, looks)


def _rounded_weight(weight: Tensor, reader: fx.Node) -> Tensor:
    integers, qparams = quantize_weight(weight, weight_spec(reader))
    return qparams.dequantize(integers, weight.dtype)


def _look(site: Site, read: fx.Node, weights: Sequence[Tensor]) -> Look:
    observer = observer_of(site.observers[0])
    assert isinstance(observer, Observer)
    spec = observer.spec

    def look(call: Call) -> None:
        error = OutputErrors(call.node, call.result)
        value, weight = call.value(read), bound(call.node)["weight"]
        for i, (scale, rounded) in enumerate(zip(site.candidates, weights, strict=True)):
            scaled = value / along_channels(call.node, scale, value)
            qparams = choose_qparams(scaled.amin().float(), scaled.amax().float(), spec)
            restored = qparams.dequantize(qparams.quantize(scaled), value.dtype)
            site.errors[-1][i] += error.of(call.with_values({read: restored, weight: rounded}))

    return look


def chosen(site: Site) -> tuple[int, float]:
    """The candidate that errs least, and its error relative to no scale, on other batches.

    Every second batch chooses, the others judge; of one batch, the same does both.
    """
    choosing = torch.stack(site.errors[::2]).sum(0)
    judging = torch.stack(site.errors[1::2] or site.errors).sum(0)
    best = int(choosing.argmin())
    return best, float(judging[best] / judging[0]) if judging[0] > 0 else 1.0


def candidates(site: Site, rw: Rewriter) -> list[Tensor]:
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


def apply(site: Site, scale: Tensor, rw: Rewriter) -> None:
    """Let readers absorb ``scale``; what makes the value must be given 1 / scale beside this."""
    for reader, _ in site.readers:
        node = bound(reader)["weight"]
        weight = scaled_weight(reader, rw.tensor(node), scale)
        replace_parameter(reader, node, weight, rw)
    site.recorder.total /= scale.to(site.recorder.total)
    site.recorder.peak /= scale.to(site.recorder.peak)


def observe_again(
    graph_module: fx.GraphModule, samples: Sequence[Sample], sites: Sequence[Site], rw: Rewriter
) -> None:
    """Give values that were scaled observers that have seen them as they are now."""
    fresh: dict[fx.Node, Observer] = {}
    for site in sites:
        old = observer_of(site.observers[0])
        assert isinstance(old, Observer)
        fresh[site.value] = type(old)(old.spec).to(old.batches.device)
    looks: dict[fx.Node, Look] = {value: _observing(made) for value, made in fresh.items()}
    for sample in samples:
        watch(graph_module, sample, looks)
    for site in sites:
        name = str(site.observers[0].target)
        replace_observer(name, site.observers, fresh[site.value], rw)


def _observing(observer: Observer) -> Callable[[Call], None]:
    return lambda call: observer.observe(call.result)
