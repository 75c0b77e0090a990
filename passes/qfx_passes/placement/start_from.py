"""start-from: let training begin where calibration of the same model ended.

Values are known by the operations of the capture that they derive from, which two captures of one
model have in common. From the reference graph of the quantized model are taken

* the qparams of activations, by the fake-quants of the same values;
* biases that calibration corrected (:mod:`qfx_passes.accuracy.correct_bias`): a bias is set; of a
  folded one, beta of the batch-norm moves by the difference, and what float32 can't hold of that
  is added in the fold, so that conversion without a step of training gives the same quantized
  model, bit for bit.

Values whose channels were scaled (:mod:`qfx_passes.accuracy.channel_scales`), and the weights that
read them, are others than those of the model that is trained: their ranges start with training.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TypeAlias

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.configuration.configuration import Configuration
from qfx.errors import ConfigError
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.graph.constants import constant_value
from qfx.quant.annotation import is_rangeless
from qfx.quant.fake_quant import FakeQuantize
from qfx.quant.qparams import QParams
from qfx.quant.recorders import observer_of
from qfx.quant.reference_form import Measured, qparams_of, quantized_weight
from qfx.rewrite.rewriter import Rewriter
from qfx.runtime.trained import Start
from qfx.vocab import OpDef, bound, is_op
from qfx_passes.operands import is_constant, parameter_value

_CODES = (torch.int8, torch.uint8)

Made: TypeAlias = "tuple[object, ...]"
"""The captured operations that a value derives from, what computes it, and a number of its own."""


class StartFrom(Pass):
    """Take over qparams and corrected biases, if there is a model to start from."""

    name = "start-from"
    keeps_values = False

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        if not ctx.has(Start):
            return
        reference = ctx.get(Start).reference
        common = _operations(graph) & _operations(reference.graph)
        here, there = _made_by(graph, common), _made_by(reference.graph, common)
        known, rangeless = _quantized(reference, there)
        scaled = _scaled(graph, here, reference, there, ctx.rewriter)
        _take_qparams(graph, here, known, rangeless, scaled, ctx.get(Configuration))
        layers = {there[node]: node for node in reference.graph.nodes if is_op(node, *vocab.LAYERS)}
        for node in list(graph.nodes):
            if not is_op(node, *vocab.LAYERS) or not is_constant(bound(node)["bias"]):
                continue
            layer = layers.get(here[node])
            if layer is None or there[_source(layer)] in scaled:
                continue
            if not _same_weight(node, layer, reference, ctx.rewriter):
                continue
            found = _weight_qparams(bound(layer)["weight"], reference)
            if found is not None:
                ctx.get(Start).weights[node.name] = found
            bias = bound(layer)["bias"]
            if isinstance(bias, fx.Node) and bias.op == "get_attr":
                with ctx.rewriter.at(node):
                    wanted = attrgetter(str(bias.target))(reference).detach()
                    _take_bias(node, wanted, ctx.rewriter)


def _operations(graph: fx.Graph) -> set[str]:
    """The captured operations that nodes derive from: what drops leaves none in a reference."""
    origins = (origin for node in graph.nodes for origin in meta.origins(node))
    return {origin.node for origin in origins if origin.type_name != "parameter"}


def _made_by(graph: fx.Graph, among: set[str]) -> dict[fx.Node, Made]:
    """What makes each value, of the operations ``among``.

    One call of a module may be taken apart into several alike.
    """
    made: dict[fx.Node, Made] = {}
    count: dict[tuple[object, ...], int] = {}
    for node in graph.nodes:
        if isinstance(node.target, OpDef) and node.target.inert:  # the reference has none left
            made[node] = made[node.args[0]]
            continue
        operations = frozenset(o.node for o in meta.origins(node) if o.node in among)
        key = (operations, node.target if node.op == "call_function" else node.op)
        made[node] = (*key, count.setdefault(key, 0))
        count[key] += 1
    return made


def _weight_qparams(restored: object, reference: fx.GraphModule) -> QParams | None:
    """The qparams of a weight of 8-bit codes."""
    found = quantized_weight(restored, reference) if isinstance(restored, fx.Node) else None
    if found is None or found.qparams.dtype not in _CODES:
        return None
    zeros = not found.qparams.dequantize(found.integers).any()
    return None if zeros else found.qparams  # any scale stands for zeros


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


# -- qparams ---------------------------------------------------------------------------------------
def _quantized(
    reference: fx.GraphModule, there: dict[fx.Node, Made]
) -> tuple[dict[Made, QParams], set[Made]]:
    """The values that are quantized with qparams known beforehand, and those that were all zero."""
    known: dict[Made, QParams] = {}
    rangeless: set[Made] = set()
    for node in reference.graph.nodes:
        if not is_op(node, vocab.QUANTIZE):
            continue
        qparams = qparams_of(node, reference)
        if isinstance(qparams, Measured):
            continue
        value = there[bound(node)["input"]]
        if is_rangeless(node):
            rangeless.add(value)
            continue
        known[value] = qparams
    return known, rangeless


def _take_qparams(
    graph: fx.Graph,
    here: dict[fx.Node, Made],
    known: dict[Made, QParams],
    rangeless: set[Made],
    scaled: set[Made],
    configuration: Configuration,
) -> None:
    unknown: dict[str, str] = {}
    zeros: dict[str, str] = {}
    taken: set[str] = set()
    for node in graph.nodes:
        fake_quant, source = observer_of(node), node.args[0] if node.args else None
        if not isinstance(fake_quant, FakeQuantize) or not isinstance(source, fx.Node):
            continue
        if here[source] in rangeless:
            zeros[str(node.target)] = meta.where(node)
            continue
        qparams = None if here[source] in scaled else known.get(here[source])
        if qparams is None or not _fits(qparams, fake_quant):
            unknown[str(node.target)] = meta.where(node)
            continue
        fake_quant.start_from(qparams)
        taken.add(str(node.target))
    if zeros:
        configuration.note(
            f"nothing but zeros was seen at {', '.join(zeros.values())} when qparams_from was "
            "calibrated, so ranges start with training there"
        )
    left = [place for name, place in unknown.items() if name not in taken]
    # Any two models have inputs and an output, and values that derive from no common operation.
    found = taken or zeros or scaled
    related = any(made[0] for node, made in here.items() if node.op != "output")
    if (left and not found) or (found and not related):
        raise ConfigError(
            "qparams_from has no quantized value in common with this model: give what qfx.quantize "
            "or qfx.convert made of the same model, with activations of the same dtype and bounds"
        )
    if left:
        configuration.warn(
            f"qparams_from lacks {len(left)} value(s), whose ranges start with training: "
            + ", ".join(left)
            + ('. Its channels were scaled; none are with effort="fast"' if scaled else "")
        )


def _fits(qparams: QParams, fake_quant: FakeQuantize) -> bool:
    codes = qparams.dtype, (qparams.quant_min, qparams.quant_max)
    return codes == (fake_quant.spec.dtype, fake_quant.spec.bounds)


# -- biases ----------------------------------------------------------------------------------------
def _take_bias(node: fx.Node, wanted: Tensor, rw: Rewriter) -> None:
    bias = bound(node)["bias"]
    if bias is None:
        hint = f"{meta.module_path(node) or node.name}.bias_shift"
        shift = rw.constant(hint, wanted.clone(), origins=(node,))
        rw.update(node, args=(*node.args, shift))
    elif is_op(bias, vocab.FOLD_BIAS):
        _shift_fold(bias, wanted, rw)
    else:
        with torch.no_grad():
            parameter_value(bias, rw).copy_(wanted)


@torch.no_grad()
def _shift_fold(fold: fx.Node, wanted: Tensor, rw: Rewriter) -> None:
    """Let a folded bias be ``wanted``."""
    arguments = bound(fold)
    tensors = {n: rw.tensor(v) for n, v in arguments.items() if isinstance(v, fx.Node)}

    def missing() -> Tensor:
        exact = {name: tensor.double() for name, tensor in tensors.items()}
        folded: Tensor = vocab.FOLD_BIAS(**exact, eps=arguments["eps"])
        return wanted.double() - folded

    if not (wanted != vocab.FOLD_BIAS(**tensors, eps=arguments["eps"])).any():
        return
    if "beta" in tensors:
        tensors["beta"].add_(missing().to(tensors["beta"].dtype))
    hint = str(arguments["mean"].target).removesuffix("running_mean") + "bias_shift"
    with rw.at(fold):
        shift = rw.constant(hint, missing(), origins=(fold,))
    names = ("mean", "var", "gamma", "beta", "bias")
    rw.update(fold, args=(*(arguments[name] for name in names), shift))
