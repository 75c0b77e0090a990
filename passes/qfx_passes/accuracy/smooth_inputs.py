"""smooth-inputs: even out the channels of what a linear layer reads, by a product before it.

    W x  =  (W diag(s)) (x * 1/s)

Behind a GELU a few channels are ten times as large as the others, and no weight before it can take
them back, as for a norm (:mod:`qfx_passes.accuracy.smooth_norms`). So ``x * 1/s`` is computed when
the model runs, as SmoothQuant does where it can't fold (Xiao et al. 2022, arXiv:2211.10438, section
4.2): one product of floats. It has to pay: inputs stay as they are unless outputs err by less than
half, on batches that were not chosen by.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.quant.annotation import annotate, annotation
from qfx.rewrite.rewriter import Rewriter
from qfx_passes.accuracy import channel_scales, scalable_activations
from qfx_passes.accuracy.kept_rows import KeptRows
from qfx_passes.accuracy.scalable_activations import ScalableActivation
from qfx_passes.accuracy.smoothing import Smoothing
from qfx_passes.operands import asks_shape


class SmoothInputs(Pass):
    """Scale channels of what linear layers read, where that halves the error."""

    name = "smooth-inputs"
    requires = Level.OBSERVED

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        _SMOOTHING.run(scalable_activations.behind_gelus(graph), ctx)
        ctx.put(KeptRows())  # nobody asks again


def _site(value: fx.Node, owners: Counter[str]) -> ScalableActivation | str:
    """The value with what reads it, or why it stays; "" where nothing wants it in integers."""
    found = scalable_activations.site_of(value, owners)
    if not isinstance(found, ScalableActivation):
        return ""
    return "others read it, too" if found.others else found


def _divide(site: ScalableActivation, scale: Tensor, rw: Rewriter) -> None:
    """Let readers read the value times 1 / ``scale``."""
    value = site.value
    with rw.at(value.next):
        info = meta.tensor_info(value)
        assert info is not None
        like = torch.empty((), dtype=info.dtype)
        factors = channel_scales.along_channels(site.readers[0][0], 1 / scale, like)
        inverse = rw.constant(f"{value.name}_scale", factors, origins=(value,))
        made = rw.call(vocab.MUL, value, inverse, origins=(value,), value=meta.value_of(value))
    for user in [u for u in value.users if u is not made and not asks_shape(u)]:
        rw.rewire(user, value, made)
    _rename(value, made, [reader for reader, _ in site.readers])


def _rename(value: fx.Node, made: fx.Node, readers: list[fx.Node]) -> None:
    """Let annotations speak of what readers read now."""
    note = annotation(value)
    if note is not None and note.output is not None:
        annotate(value, replace(note, output=None))
    for reader in readers:
        note = annotation(reader)
        if note is not None and value.name in note.reads:
            reads = {made.name if n == value.name else n: edge for n, edge in note.reads.items()}
            annotate(reader, replace(note, reads=reads))


_SMOOTHING = Smoothing("input", _site, 0.5, "no scale halves the error of what reads it", _divide)
