"""smooth-norms: even out the channels of what a norm yields, and let what reads it make up for it.

    norm(x) = n * g + b                n: x normalized;  W norm(x) = (W diag(s)) (n * g/s + b/s)

The norms of Transformers have a few channels that are ten times as large as the others, and one
step for all of them leaves the others few codes. Scales s move into the weight and bias of the norm
(Xiao et al. 2022, arXiv:2211.10438; for the reparameterization of norms alone, Li et al. 2023,
arXiv:2212.08254), at no cost when the model runs. Where something else reads the norm as well, a
residual, it reads ``norm(x) * s``: one product of floats, and the residual is no longer rounded.

How far to go is measured for each norm (:mod:`qfx_passes.accuracy.channel_scales`). A norm stays as
it is where no scale lets outputs err less by a tenth, on batches that were not chosen by.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from torch import Tensor, fx

from qfx import vocab
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.quant.annotation import annotate, annotation
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import bound, is_op
from qfx_passes.accuracy import scalable_activations
from qfx_passes.accuracy.replacing import replace_parameter
from qfx_passes.accuracy.scalable_activations import ScalableActivation
from qfx_passes.accuracy.smoothing import Smoothing


class SmoothNorms(Pass):
    """Move scales of channels from what norms yield into the weights behind them."""

    name = "smooth-norms"
    requires = Level.OBSERVED

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        norms = [n for n in graph.nodes if is_op(n, *vocab.TRAILING_NORMS)]
        _SMOOTHING.run(norms, ctx, ahead=scalable_activations.behind_gelus(graph))


def _site(norm: fx.Node, owners: Counter[str]) -> ScalableActivation | str:
    """The norm with what reads it, or why it stays as it is."""
    arguments = bound(norm)
    parameters = [arguments[name] for name in ("weight", "bias") if arguments.get(name) is not None]
    if arguments.get("weight") is None or len(arguments["normalized_shape"]) != 1:
        return "it has no weight for each channel of the last dim"
    if any(p.op != "get_attr" or owners[str(p.target)] > 1 for p in parameters):
        return "its weight is shared, or computed"
    found = scalable_activations.site_of(norm, owners)
    if isinstance(found, ScalableActivation) and not all(
        is_op(r, vocab.LINEAR) for r, _ in found.readers
    ):
        return "what reads it has its channels elsewhere"
    note = annotation(norm)
    if (
        isinstance(found, ScalableActivation)
        and found.others
        and note is not None
        and note.decision.quantized
    ):
        return "it yields integers, and others read it, too"
    return found


def _divide(site: ScalableActivation, scale: Tensor, rw: Rewriter) -> None:
    """Give the norm the weight and bias that yield its values divided by ``scale``."""
    norm = site.value
    for name in ("weight", "bias"):
        parameter = bound(norm).get(name)
        if parameter is not None:
            tensor = rw.tensor(parameter)
            replace_parameter(norm, parameter, tensor / scale.to(tensor), rw)
    _restore_for_others(site, scale, rw)


def _restore_for_others(site: ScalableActivation, scale: Tensor, rw: Rewriter) -> None:
    """Let what has no weight to absorb the scale read the norm times the scale."""
    if not site.others:
        return
    norm = site.value
    with rw.at(norm.next):
        like = rw.tensor(bound(norm)["weight"])
        factors = rw.constant(f"{norm.name}_scale", scale.to(like), origins=(norm,))
        restored = rw.call(vocab.MUL, norm, factors, origins=(norm,), value=meta.value_of(norm))
    for reader, read in site.others:
        rw.rewire(reader, read, restored)
        note = annotation(reader)
        if note is not None and norm.name in note.reads:
            reads = {name: edge for name, edge in note.reads.items() if name != norm.name}
            annotate(reader, replace(note, reads=reads))


_SMOOTHING = Smoothing("norm", _site, 0.9, "no scale lets what reads it err less", _divide)
