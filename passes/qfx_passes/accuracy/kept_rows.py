"""A few rows of what layers read and yield, to try on what other scales would make of them.

The float graph runs once over the batches that calibration kept, for all values that passes ask
about. Of a value some rows are kept, spread over each batch, and the extremes of its channels over
all rows; of a layer that reads it, what it yields for the rows, of some channels if it is linear.
So a try takes products of a few hundred rows and channels, however large model and batches are.

Which channels: every k-th in the order of the norms of their weights, from the largest on. A few
that are much larger than the others, and count for as much, are among them as they are among all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.framework.pass_context import PassContext
from qfx.quant.annotation import annotation
from qfx.rewrite.rewriter import Rewriter
from qfx.runtime.samples import Sample
from qfx.vocab import OpDef, bound, is_op
from qfx_passes.accuracy.scalable_activations import ScalableActivation
from qfx_passes.accuracy.watching import WatchedCall, Watcher, watch
from qfx_passes.operands import is_constant

MOST_ROWS = 256  # of a value, of all batches
MOST_BYTES = 2**27  # of all values
FEWEST_ROWS = 32
MOST_CHANNELS = 128  # of a linear layer, or up to twice as many
_POSITIONS = 16  # so many of an image, which are alike, for a row


class KeptCall(NamedTuple):
    """What a layer made of rows of a value.

    Attributes:
        op: what it computes.
        arguments: what it was called with, by name of its parameters; without value and weight.
        result: what it yields.
    """

    op: OpDef
    arguments: dict[str, Any]
    result: Tensor

    def again(self, rows: Tensor, weight: Tensor) -> Tensor:
        """What it would make of other rows, with another weight."""
        made: Tensor = self.op(input=rows, weight=weight, **self.arguments)
        return made


class KeptBatch:
    """Rows of a value, of one batch; of what a convolution reads, images.

    Attributes:
        rows: the rows.
        low, high: (C,) extremes of each channel, of all rows.
        calls: of the layers that read it, what they make of the rows.
    """

    def __init__(self, value: Tensor, axis: int, most: int) -> None:
        self.low, self.high = _extremes(value, axis)
        self.calls: dict[fx.Node, KeptCall] = {}
        self._leading, self._within = value.shape[:axis], -axis
        count = self._leading.numel()
        most = max(0, -(-most // value.shape[axis:][1:].numel()))
        self._index = torch.linspace(0, count - 1, min(most, count), device=value.device).long()
        self.rows = self._of_all(value)

    @property
    def positions(self) -> int:
        """How many rows, or positions of images, there are."""
        return self.rows.numel() // self.rows.shape[-self._within]

    def powers(self) -> Tensor:
        """(C,) sums of squares of each channel, of the rows."""
        rows = self.rows.float().movedim(-self._within, -1)
        return rows.reshape(-1, rows.shape[-1]).square().sum(0)

    def keep(self, call: WatchedCall, weight: Tensor, channels: Tensor | None) -> None:
        """Keep what a layer with a weight yields for the rows, of some channels; None: of all."""
        target, arguments, outputs = call.node.target, call.arguments(), weight.shape[0]
        assert isinstance(target, OpDef)
        del arguments["input"], arguments["weight"]
        expected = (*self._leading, outputs)
        fits = call.result.shape[: len(expected)] == expected
        if not fits:  # a residual of another shape spread it
            arguments["post"] = ()
        some = {name: self._part(x, outputs, channels) for name, x in arguments.items()}
        made = KeptCall(target, some, self._part(call.result, outputs, channels))
        if not fits:
            weight = weight if channels is None else weight[channels]
            made = made._replace(result=made.again(self.rows, weight))
        self.calls[call.node] = made

    def take_over(self, others: Sequence[KeptBatch]) -> None:
        """Hold the rows of other batches as well; they are of what linear layers read."""
        every = [self, *others]
        self.rows = torch.cat([batch.rows for batch in every])
        self.low = torch.stack([batch.low for batch in every]).amin(0)
        self.high = torch.stack([batch.high for batch in every]).amax(0)
        self.calls = {
            reader: _joined([batch.calls[reader] for batch in every]) for reader in self.calls
        }

    def _part(self, value: object, outputs: int, channels: Tensor | None) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(self._part(each, outputs, channels) for each in value)
        if not isinstance(value, Tensor):
            return value
        value = value.detach()
        value = self._of_all(value) if value.dim() > self._within else value
        if channels is None or value.dim() == 0 or value.shape[-1] != outputs:
            return value
        return value[..., channels]

    def _of_all(self, value: Tensor) -> Tensor:
        """The rows of a value that has as many, or is the same for all."""
        within = value.shape[-self._within :]
        rows = value.broadcast_to(*self._leading, *within)
        return rows.reshape(-1, *within)[self._index]


class KeptRows:
    """Rows of all values that passes asked about so far."""

    def __init__(self) -> None:
        self.channels: dict[fx.Node, Tensor | None] = {}
        self._batches: dict[fx.Node, list[KeptBatch]] = {}

    def of(self, site: ScalableActivation) -> list[KeptBatch]:
        """The rows kept of one value, batch by batch."""
        return self._batches[site.value]

    def has(self, site: ScalableActivation) -> bool:
        """Whether there are rows of a value, and of all layers that read it."""
        return site.value in self._batches and all(r in self.channels for r, _ in site.readers)

    def keep(
        self,
        graph_module: fx.GraphModule,
        samples: Sequence[Sample],
        sites: Sequence[ScalableActivation],
        rw: Rewriter,
    ) -> None:
        """Run all batches, and keep rows of these values."""
        most, looks = _rows_of_each(sites), defaultdict[fx.Node, list[Watcher]](list)
        for site in sites:
            self._batches[site.value] = []
            looks[site.value].append(self._looking(site, most, len(samples)))
            for reader, _ in site.readers:
                looks[reader].append(self._reading(site, reader, rw))
        watch(graph_module, samples, looks)
        for site in sites:
            kept = self.of(site)
            if kept and _may_be_joined(site):
                kept[0].take_over(kept[1:])
                del kept[1:]

    def _looking(self, site: ScalableActivation, most: int, batches: int) -> Watcher:
        axis, kept = site.readers[0][0].target.channel_axis, self._batches[site.value]  # type: ignore[union-attr]
        most *= 1 if axis == -1 else _POSITIONS

        def look(call: WatchedCall) -> None:
            if call.result.numel():
                left = most - sum(batch.positions for batch in kept)
                kept.append(KeptBatch(call.result.detach(), axis, min(-(-most // batches), left)))

        return look

    def _reading(self, site: ScalableActivation, reader: fx.Node, rw: Rewriter) -> Watcher:
        weight, kept = rw.tensor(bound(reader)["weight"]).detach(), self._batches[site.value]
        channels = self.channels[reader] = _some_channels(reader, weight)

        def look(call: WatchedCall) -> None:
            if call.result.numel() and kept[-1].positions:
                kept[-1].keep(call, weight, channels)

        return look


def kept_rows(
    ctx: PassContext,
    samples: Sequence[Sample],
    sites: Sequence[ScalableActivation],
    ahead: Sequence[ScalableActivation] = (),
) -> KeptRows:
    """Rows of these values.

    Args:
        ctx: of the pass that asks.
        samples: batches that calibration kept.
        sites: the values.
        ahead: those that a later pass asks about; the graph runs once for both.
    """
    kept = ctx.get(KeptRows) if ctx.has(KeptRows) else KeptRows()
    ctx.put(kept)
    wanted = [site for site in sites if not kept.has(site)]
    if wanted:
        kept.keep(ctx.graph_module, samples, [*wanted, *ahead], ctx.rewriter)
    return kept


def _may_be_joined(site: ScalableActivation) -> bool:
    """Whether batches of rows are rounded alike, and nothing differs from one to the next."""
    return site.measured is None and all(
        is_op(reader, vocab.LINEAR) and is_constant(bound(reader)["bias"])
        for reader, _ in site.readers
    )


def _joined(calls: Sequence[KeptCall]) -> KeptCall:
    op, arguments, _ = calls[0]
    joined = {name: _joined_values([call.arguments[name] for call in calls]) for name in arguments}
    return KeptCall(op, joined, torch.cat([call.result for call in calls]))


def _joined_values(values: Sequence[Any]) -> Any:
    """Arguments of calls as one of a call of all their rows."""
    first = values[0]
    if isinstance(first, (tuple, list)):
        return type(first)(map(_joined_values, zip(*values, strict=True)))
    return torch.cat(list(values)) if isinstance(first, Tensor) and first.dim() > 1 else first


def _extremes(value: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """(C,) smallest and largest values of each channel."""
    if axis == -1:
        low, high = torch.aminmax(value.reshape(-1, value.shape[-1]), dim=0)
        return low, high
    others = [d for d in range(value.dim()) if d != value.dim() + axis]
    return value.amin(others), value.amax(others)


def _rows_of_each(sites: Sequence[ScalableActivation]) -> int:
    """How many rows of each value are kept, so that all have room."""
    numbers = sum(site.recorder.peak.numel() for site in sites)
    return min(MOST_ROWS, max(FEWEST_ROWS, MOST_BYTES // (4 * numbers)))


def _some_channels(reader: fx.Node, weight: Tensor) -> Tensor | None:
    """Which channels of a layer are kept, where its weight is rounded channel by channel."""
    note = annotation(reader)
    assert note is not None
    assert note.weight is not None
    every = weight.shape[0] // MOST_CHANNELS
    if every < 2 or not is_op(reader, vocab.LINEAR) or note.weight.channel_axis != 0:
        return None
    size: Tensor = torch.linalg.vector_norm(weight.float(), dim=1)
    return size.argsort(descending=True, stable=True)[::every]
