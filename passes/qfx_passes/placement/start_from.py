"""start-from: let training begin where calibration of the same model ended.

Values are known by what they derive from (:mod:`qfx_passes.placement.derivations`). From the
reference graph of the quantized model are taken

* the qparams of activations, by the fake-quants of the same values
  (:mod:`qfx_passes.placement.starting_qparams`);
* the bits, scales and codes of weights that calibration chose (:mod:`qfx_passes.accuracy.gptq`,
  :mod:`qfx_passes.accuracy.widen_weights`), by :mod:`qfx_passes.placement.starting_weights`;
* biases that calibration corrected (:mod:`qfx_passes.accuracy.correct_bias`), so that conversion
  without a step of training gives the same quantized model, bit for bit
  (:mod:`qfx_passes.placement.starting_biases`).

Values whose channels were scaled (:mod:`qfx_passes.accuracy.channel_scales`), and the weights that
read them, are others than those of the model that is trained: their ranges start with training.
"""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import fx

from qfx import vocab
from qfx.configuration.configuration import Configuration
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.graph.constants import constant_value
from qfx.quant.annotation import annotation
from qfx.rewrite.rewriter import Rewriter
from qfx.runtime.trained import Start
from qfx.vocab import bound, is_op
from qfx_passes.accuracy.widen_weights import widen
from qfx_passes.operands import is_constant, parameter_value
from qfx_passes.placement.derivations import Made, made_by, operations
from qfx_passes.placement.starting_biases import take_bias
from qfx_passes.placement.starting_qparams import quantized_values, take_qparams
from qfx_passes.placement.starting_weights import Weights, starting_weight, widened


class StartFrom(Pass):
    """Take over qparams and corrected biases, if there is a model to start from."""

    name = "start-from"
    keeps_values = False

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        if not ctx.has(Start):
            return
        reference = ctx.get(Start).reference
        common = operations(graph) & operations(reference.graph)
        here, there = made_by(graph, common), made_by(reference.graph, common)
        known, rangeless = quantized_values(reference, there)
        scaled = _scaled(graph, here, reference, there, ctx.rewriter)
        take_qparams(graph, here, known, rangeless, scaled, ctx.get(Configuration))
        layers = {there[node]: node for node in reference.graph.nodes if is_op(node, *vocab.LAYERS)}
        weights = Weights(graph, ctx.rewriter)
        for node in list(graph.nodes):
            if not is_op(node, *vocab.LAYERS) or not is_constant(bound(node)["bias"]):
                continue
            layer = layers.get(here[node])
            if layer is None or there[_source(layer)] in scaled:
                continue
            if not _same_weight(node, layer, reference, ctx.rewriter):
                continue
            _take_weight(node, layer, weights, ctx)
            bias = bound(layer)["bias"]
            if isinstance(bias, fx.Node) and bias.op == "get_attr":
                with ctx.rewriter.at(node):
                    wanted = attrgetter(str(bias.target))(reference).detach()
                    take_bias(node, wanted, ctx.rewriter)


def _take_weight(node: fx.Node, layer: fx.Node, weights: Weights, ctx: PassContext) -> None:
    """Let the weight of a layer be rounded as that of ``layer`` of the reference graph is."""
    ours, theirs = annotation(node), annotation(layer)
    if ours is None or theirs is None:
        return
    spec, wide = ours.weight, widened(ours, theirs)
    if wide is not None:
        spec = wide
        widen(node, wide, "8 bits, as qparams_from has", ctx)
    start = ctx.get(Start)
    found = None if spec is None else starting_weight(layer, start.reference, spec)
    if spec is None or found is None:
        return
    start.weights[node.name] = found.qparams
    if not weights.take_codes(node, found, spec):
        ctx.get(Configuration).note(
            f"qparams_from has other codes than the nearest for the weight of {meta.where(node)}, "
            "which others read, too: training starts from the nearest ones"
        )


def _same_weight(node: fx.Node, layer: fx.Node, reference: fx.GraphModule, rw: Rewriter) -> bool:
    """Whether a layer has the weight, rounded, of which the reference knows the bias."""
    weight, codes = bound(node)["weight"], bound(layer)["weight"]
    if not is_constant(weight) or not isinstance(codes, fx.Node):
        return False
    ours = parameter_value(weight, rw).detach()
    theirs = constant_value(codes, reference)
    if theirs is None or theirs.shape != ours.shape:
        return False
    error, size = (theirs - ours).abs().max(), ours.abs().max()
    return bool(error <= size)  # no code is off by more than the whole range of a 2-bit weight


# -- scales ----------------------------------------------------------------------------------------
def _scaled(
    graph: fx.Graph,
    here: dict[fx.Node, Made],
    reference: fx.GraphModule,
    there: dict[fx.Node, Made],
    rw: Rewriter,
) -> set[Made]:
    """The values of the reference graph whose channels have scales that those of ``graph`` lack."""
    ours = {here[node]: node for node in graph.nodes}
    scaled: set[Made] = set()
    for node in reference.graph.nodes:
        twin = ours.get(there[node])
        if is_op(node, vocab.MUL) and twin is None and is_constant(bound(node)["other"]):
            scaled.add(there[node])
        elif is_op(node, *vocab.TRAILING_NORMS) and twin is not None:
            weight, own = bound(node).get("weight"), bound(twin).get("weight")
            theirs = constant_value(weight, reference) if isinstance(weight, fx.Node) else None
            if theirs is None or not isinstance(own, fx.Node) or not is_constant(own):
                continue
            if not torch.equal(theirs, parameter_value(own, rw)):
                scaled.add(there[node])
    return scaled


def _source(layer: fx.Node) -> fx.Node:
    """What ``layer`` reads, before it was rounded."""
    value: fx.Node = bound(layer)["input"]
    while is_op(value, vocab.QUANTIZE, vocab.DEQUANTIZE):
        value = bound(value)["input"]
    return value
