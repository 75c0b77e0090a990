"""Layers whose weights get codes other than the nearest ones, and what is changed for that."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from qfx.framework.pass_context import PassContext
from qfx.quant.annotation import annotation, mark_making_up
from qfx.quant.qparams import QParams
from qfx.quant.recorders import recorder_of
from qfx.quant.spec import QuantSpec
from qfx.vocab import bound, is_op
from qfx_passes.accuracy.correct_bias import mean_output_shift
from qfx_passes.accuracy.corrected_layers import corrected_spec, originals
from qfx_passes.accuracy.second_moments import UNFOLDED
from qfx_passes.operands import is_constant
from qfx_passes.weights import quantized_weights

_LARGEST = 8192  # values that an output reads: second moments are that number squared


@dataclass
class Layer:
    """A layer whose weight may be rounded otherwise.

    Attributes:
        node: the layer.
        name: of its weight.
        spec: how that is quantized.
        original: the weight.
        weight: (G, O, K) the same, in float64, per group of channels.
        bias: (G, O) what it adds; in the model, where correct-bias has given it another.
        bias_is_free: whether that may be another.
    """

    node: fx.Node
    name: str
    spec: QuantSpec
    original: Tensor
    weight: Tensor
    bias: Tensor
    bias_is_free: bool

    def grouped(self, weight: Tensor) -> Tensor:
        """(G, O, K) of a weight as the layer has it."""
        return weight.reshape(self.weight.shape)

    def shaped(self, weight: Tensor) -> Tensor:
        """A weight as the layer has it, of (G, O, K)."""
        return weight.reshape(self.original.shape).to(self.original.dtype)


@dataclass
class Rounding:
    """Codes for a weight.

    Attributes:
        integers: the codes, as the layer has its weight.
        qparams: of these.
        weight: (G, O, K) what they stand for.
        bias: (G, O) that goes with them.
        made_up: (G, O) of the bias, what makes up for the rounding before the layer.
        ratio: the error of the output on other batches, relative to that of the nearest codes.
    """

    integers: Tensor
    qparams: QParams
    weight: Tensor
    bias: Tensor
    made_up: Tensor | None = None
    ratio: float = 1.0

    @property
    def flat_bias(self) -> Tensor:
        """The bias as a layer has it."""
        return self.bias.flatten().float()


def layer_of(node: fx.Node, owners: Counter[str], ctx: PassContext) -> Layer | str:
    """The layer that ``node`` is; why its weight is left alone, or "" if it has none."""
    note = annotation(node)
    if note is None or not note.decision.quantized or note.weight is None:
        return ""
    if not is_op(node, *UNFOLDED):
        return "its weight is none of a linear layer, or of a convolution of one or two dims"
    arguments, spec = bound(node), note.weight
    weight, bias = arguments["weight"], arguments["bias"]
    if not isinstance(weight, fx.Node) or weight.op != "get_attr" or not is_constant(bias):
        return "its weight or bias is computed"
    if owners[str(weight.target)] > 1 or len(weight.users) > 1:
        return "its weight is shared"
    if not spec.symmetric or spec.dtype != torch.int8:
        return "its codes are not symmetric"
    if isinstance(arguments.get("padding"), str):
        return "its padding is a word"
    original = ctx.rewriter.tensor(weight)
    groups = arguments.get("groups", 1)
    grouped = original.detach().reshape(groups, original.shape[0] // groups, -1)
    if grouped.shape[2] > _LARGEST:
        return f"an output reads {grouped.shape[2]} values, and at most {_LARGEST} are taken"
    grouped = grouped.double()
    held = originals(ctx).biases.get(node, _bias_of(node, ctx))
    added = _grouped_bias(held, grouped)
    return Layer(node, str(weight.target), spec, original, grouped, added, _is_free(node, ctx))


def _bias_of(node: fx.Node, ctx: PassContext) -> Tensor | None:
    bias = bound(node)["bias"]
    return ctx.rewriter.tensor(bias).detach() if isinstance(bias, fx.Node) else None


def _grouped_bias(bias: Tensor | None, weight: Tensor) -> Tensor:
    """(G, O) of the bias of a layer with a (G, O, K) weight."""
    made = weight.new_zeros(weight.shape[:2])
    return made if bias is None else bias.double().reshape(made.shape)


def _is_free(node: fx.Node, ctx: PassContext) -> bool:
    """Whether no output read zeros only, whose zeros a bias must keep."""
    recorder = recorder_of(bound(node)["input"])
    seen = recorder is not None and bool(recorder.silent > 0)
    return not seen and node not in originals(ctx).silent


def nearest(layer: Layer, ctx: PassContext) -> Rounding:
    """The nearest codes, and the bias that goes with them as the graph has it."""
    integers, qparams = quantized_weights(ctx).get(layer.name, layer.original, layer.spec)
    weight = layer.grouped(qparams.dequantize(integers).double())
    bias = _grouped_bias(_bias_of(layer.node, ctx), layer.weight)
    return Rounding(integers, qparams, weight, bias)


def rounded_weight(node: fx.Node, ctx: PassContext) -> Tensor | None:
    """The weight of a layer as it will be; None where it stays in floats."""
    spec = corrected_spec(node)
    weight = bound(node)["weight"] if spec is not None else None
    if spec is None or spec.dtype.is_floating_point or not isinstance(weight, fx.Node):
        return None
    if weight.op != "get_attr":
        return None
    tensor = ctx.rewriter.tensor(weight)
    integers, qparams = quantized_weights(ctx).get(str(weight.target), tensor, spec)
    return qparams.dequantize(integers, tensor.dtype)


def take(layer: Layer, chosen: Rounding, ctx: PassContext) -> None:
    """Let the layer have these codes and this bias."""
    node, rw = layer.node, ctx.rewriter
    quantized_weights(ctx).choose(layer.original, layer.spec, chosen.integers, chosen.qparams)
    held, replaced = _bias_of(node, ctx), bound(node)["bias"]
    originals(ctx).biases.setdefault(node, held)
    if not layer.bias_is_free and not chosen.bias.any():
        rw.update(node)  # it reads the same, and is said to have changed
        return
    hint = layer.name.rpartition("weight")[0] + "bias"
    if chosen.made_up is not None:
        mark_making_up(node, chosen.made_up.flatten().tolist())
    with rw.at(node):
        bias = chosen.bias.flatten().to(layer.original.dtype)
        made = rw.constant(hint, bias, origins=(node,))
    rw.update(node, args=(*node.args[:2], made))
    if isinstance(replaced, fx.Node) and not replaced.users:
        rw.erase(replaced)


def corrected_bias(layer: Layer, weight: Tensor) -> Tensor:
    """(G, O) the bias that correct-bias gives a layer with this weight, which has its shape."""
    recorder = recorder_of(bound(layer.node)["input"])
    if recorder is None or not recorder.seen or not layer.bias_is_free:
        return layer.bias
    error = weight.double() - layer.original.detach().double()
    shift = mean_output_shift(error, recorder.mean(), layer.weight.shape[0])
    return layer.bias - shift.reshape(layer.bias.shape)
