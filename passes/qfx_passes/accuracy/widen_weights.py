"""widen-weights: give weights of few bits that matter most for their size eight.

    e_l = |y_l - y|^2 / |y|^2

y_l is the output if the weight of layer l alone is rounded, and its bias is corrected for that.

Where all weights are of four bits, those of depthwise convolutions and of the first layers make for
a large part of the error, and are a few hundredths of all weights (Dong et al. 2019, HAWQ,
arXiv:1905.03696, and 2020, arXiv:1911.03852; here the error of the output itself is what counts,
measured on the batches that calibration kept). Errors of layers add up, nearly, so the layers that
lose most for each bit are taken one after another, as long as no more than ``share`` is added to
the bits of all weights, and each has at least ``worth`` times the part of the error that it has of
the bits.

Weights of more than four bits are left alone, so are those that are stored in few bits and
multiplied as floats: their size is what they are for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from qfx.capture.arguments import copy_tensors
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph.findings import findings
from qfx.graph.steps import arguments_by_name, state_kept
from qfx.history.events import NearMiss
from qfx.quant.annotation import annotate, annotation
from qfx.quant.spec import QuantSpec
from qfx.runtime.samples import Sample
from qfx.verification.outputs import agreement
from qfx.vocab import bound
from qfx_passes.accuracy.corrected_layers import corrected_spec
from qfx_passes.accuracy.rounded_layers import Layer, corrected_bias, layer_of, rounded_weight
from qfx_passes.accuracy.two_streams import SteppedModel
from qfx_passes.accuracy.watching import samples_of

_FEW = 16
"""Codes of four bits."""
_WIDEST = 127
_BATCHES = 2
"""To measure on: the model is run on each as often as there are such layers."""


@dataclass(frozen=True)
class WidenWeights(Pass):
    """Let weights of few bits have eight where that pays most.

    Attributes:
        share: of the bits of all weights, how many may be added; a fifth comes to 60 % of the bits
            of weights of eight.
        worth: how many times its part of the bits the part of the error of a layer has to be.
    """

    name = "widen-weights"
    requires = Level.OBSERVED
    share: float = 0.2
    worth: float = 0.3

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        is_done = any(self.name in dict(findings(node)) for node in graph.nodes)
        narrow = [] if is_done else list(_narrow(graph, ctx))
        samples = samples_of(ctx) if narrow else []
        if not samples:
            return
        with state_kept(ctx.graph_module):
            _measure(narrow, samples[:_BATCHES], ctx)
        all_bits, all_errors = sum(n.bits for n in narrow), sum(n.error for n in narrow)
        room = self.share * all_bits
        for each in sorted(narrow, key=lambda n: n.error / n.added, reverse=True):
            part = each.error / all_errors if all_errors else 0.0
            pays = part >= self.worth * each.bits / all_bits  # not of an error that is no number
            if each.added > room or not pays:
                told = f"{part:.1%} of the error, {each.bits / all_bits:.1%} of the bits"
                ctx.near_misses.append(NearMiss(self.name, each.node.name, told))
                continue
            room -= each.added
            note = annotation(each.node)
            assert note is not None
            assert note.weight is not None
            wide = replace(note.weight, quant_min=-_WIDEST, quant_max=_WIDEST)
            widen(each.node, wide, f"8 bits: {part:.1%} of the error", ctx)


@dataclass
class _Narrow:
    """A layer whose weight has few bits.

    Attributes:
        node: the layer.
        bits: of its weight.
        added: if that had eight for each value.
        error: e_l.
    """

    node: fx.Node
    bits: float
    added: float
    error: float = 0.0


def _narrow(graph: fx.Graph, ctx: PassContext) -> Iterator[_Narrow]:
    readers = Counter(str(n.target) for n in graph.nodes if n.op == "get_attr")
    for node in graph.nodes:
        spec, note = corrected_spec(node), annotation(node)
        if spec is None or note is None or note.method == "weight_only":
            continue
        low, high = spec.bounds if spec.dtype == torch.int8 else (0, _FEW)
        weight = bound(node)["weight"]
        if high - low >= _FEW or not spec.symmetric or not isinstance(weight, fx.Node):
            continue
        if weight.op == "get_attr" and readers[str(weight.target)] == 1 == len(weight.users):
            values = ctx.rewriter.tensor(weight).numel()
            bits = (high - low).bit_length() * values
            yield _Narrow(node, bits, 8 * values - bits)


def _measure(narrow: Sequence[_Narrow], samples: Sequence[Sample], ctx: PassContext) -> None:
    """Find what rounding each weight alone does to the outputs."""
    owners = Counter(str(n.target) for n in ctx.graph_module.graph.nodes if n.op == "get_attr")
    for sample in samples:
        expected = _outputs(ctx, sample, {})
        for each in narrow:
            actual = _outputs(ctx, sample, {each.node: _rounded(each.node, owners, ctx)})
            each.error += 10 ** (-agreement(expected, actual) / 10)


def _outputs(
    ctx: PassContext, sample: Sample, given: dict[fx.Node, dict[str, Tensor | None]]
) -> object:
    arguments = arguments_by_name(ctx.graph_module.graph, *sample)
    return SteppedModel(ctx.graph_module, copy_tensors(arguments), given).run_to_end()


def _rounded(node: fx.Node, owners: Counter[str], ctx: PassContext) -> dict[str, Tensor | None]:
    """The weight of a layer as it will be, and the bias that makes up for it, by parameter."""
    rounded = rounded_weight(node, ctx)
    assert rounded is not None
    layer = layer_of(node, owners, ctx)
    if not isinstance(layer, Layer):
        return {"weight": rounded}
    bias = corrected_bias(layer, rounded).flatten().to(rounded.dtype)
    return {"weight": rounded, "bias": bias}


def widen(node: fx.Node, spec: QuantSpec, told: str, ctx: PassContext) -> None:
    """Let the weight of a layer be quantized by a spec of more bits than are asked for."""
    note = annotation(node)
    assert note is not None
    with ctx.rewriter.named(told):
        annotate(node, replace(note, weight=spec, widened=True))
        ctx.record(node, WidenWeights.name, told)
        ctx.rewriter.update(node)  # it reads the same, and is said to have changed
