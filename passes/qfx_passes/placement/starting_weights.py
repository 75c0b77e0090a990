"""Weights that training starts with: those that are rounded to the codes of a quantized model.

Calibration may have chosen other codes than the nearest (:mod:`qfx_passes.accuracy.gptq`). Where
the nearest code is the chosen one a weight stays as it is; where it is another it becomes what the
chosen code stands for, over the factor of a batch-norm that is folded into it. So does one that
would be clipped in such a layer, which no gradient would reach.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.quant.annotation import Annotation, annotation
from qfx.quant.reference_form import QuantizedWeight, quantized_weight
from qfx.quant.spec import QuantSpec
from qfx.rewrite.rewriter import Rewriter
from qfx.semantics.folding import norm_factor, scale_channels
from qfx.vocab import bound, is_op
from qfx_passes.operands import computed_from, is_derived, parameter_value
from qfx_passes.training.derived_weights import parameter_of

_CODES = (torch.int8, torch.uint8)
_WIDE = torch.iinfo(torch.int16)


def widened(ours: Annotation, theirs: Annotation) -> QuantSpec | None:
    """The spec of a weight with the bits that calibration gave it beyond what was asked for.

    None where it gave none, or where as many are asked for now.
    """
    spec, wide = ours.weight, theirs.weight
    if not theirs.widened or spec is None or wide is None or not _is_narrower(spec, wide):
        return None
    return replace(spec, quant_min=wide.quant_min, quant_max=wide.quant_max)


def _is_narrower(spec: QuantSpec, other: QuantSpec) -> bool:
    (low, high), (least, most) = spec.bounds, other.bounds
    return spec.dtype == other.dtype and spec.symmetric and low > least and high < most


def starting_weight(
    layer: fx.Node, reference: fx.GraphModule, spec: QuantSpec
) -> QuantizedWeight | None:
    """The codes of a layer of the reference graph, if ``spec`` rounds to such codes."""
    restored, note = bound(layer)["weight"], annotation(layer)
    if note is None or note.weight is None or _form_of(spec) != _form_of(note.weight):
        return None
    if spec.dtype not in _CODES or not (spec.symmetric or spec.observer_class.learns):
        return None
    found = quantized_weight(restored, reference) if isinstance(restored, fx.Node) else None
    if found is None:
        return None
    zeros = not found.qparams.dequantize(found.integers).any()
    return None if zeros else found  # any scale stands for zeros


def _form_of(spec: QuantSpec) -> tuple[object, ...]:
    """How a weight is quantized, but for where its range comes from."""
    layout = spec.per_channel, spec.channel_axis, spec.group_size
    bounds = () if spec.dtype not in _CODES else spec.bounds
    return (spec.dtype, bounds, spec.symmetric, spec.power_of_two, spec.offset, *layout)


class Weights:
    """The weights of the layers of a graph, which are parameters, or computed from some."""

    def __init__(self, graph: fx.Graph, rw: Rewriter) -> None:
        self.rw = rw
        self._readers: dict[int, list[fx.Node]] = {}
        for node in graph.nodes:
            if node.op == "get_attr":
                self._readers.setdefault(id(rw.tensor(node)), []).extend(node.users)

    @torch.no_grad()
    def take_codes(self, layer: fx.Node, wanted: QuantizedWeight, spec: QuantSpec) -> bool:
        """Let the weight of a layer be rounded to the codes of ``wanted``.

        Returns:
            Whether it is; not where it would have to be another, and somebody else reads it.
        """
        weight = bound(layer)["weight"]
        other = _others(parameter_value(weight, self.rw), wanted, spec)
        if not other.any():
            return True
        if self._is_shared(layer, weight):
            return False
        restored = wanted.qparams.dequantize(wanted.integers).double()
        if is_op(weight, vocab.FOLD_WEIGHT):
            restored = _unfolded(weight, restored, self.rw)
            weight = bound(weight)["weight"]
        self._write(weight, restored, other)
        return True

    def _is_shared(self, layer: fx.Node, weight: fx.Node) -> bool:
        reader = layer
        while is_derived(weight):
            if len(weight.users) > 1:
                return True
            reader, weight = weight, weight.all_input_nodes[0]
        readers = self._readers[id(self.rw.tensor(weight))]
        return not all(each is reader or _lie_apart(each, reader) for each in readers)

    def _write(self, weight: fx.Node, values: Tensor, where: Tensor) -> None:
        """Let a parameter, or what is moved from one, be ``values`` there."""
        held = self.rw.tensor(parameter_of(weight))
        numbers = torch.arange(held.numel(), device=held.device).reshape(held.shape)
        places = computed_from(weight, lambda _: numbers)
        values = values.to(held.dtype)
        where = where & values.isfinite()
        flat = held.flatten().clone()
        flat[places[where]] = values[where]
        held.copy_(flat.reshape(held.shape))


def _others(value: Tensor, wanted: QuantizedWeight, spec: QuantSpec) -> Tensor:
    """Which values are not rounded to their codes; of those that are, none or what is clipped."""
    low, high = spec.bounds
    bounded = replace(wanted.qparams, quant_min=low, quant_max=high)
    other = bounded.quantize(value) != wanted.integers
    if spec.observer_class.learns or not other.any():
        return other
    ends = {"quant_min": _WIDE.min, "quant_max": _WIDE.max}
    return replace(bounded, dtype=torch.int16, **ends).quantize(value) != wanted.integers


def _lie_apart(one: fx.Node, other: fx.Node) -> bool:
    """Whether both take parts of a parameter, and not the same ones."""
    if not (is_op(one, vocab.PART) and is_op(other, vocab.PART)):
        return False
    (first, index), (second, place) = (
        (named["parts"], named["index"]) for named in (bound(one), bound(other))
    )
    return bool(first == second and index != place)


def _unfolded(fold: fx.Node, restored: Tensor, rw: Rewriter) -> Tensor:
    """What folds to ``restored``; not finite in channels that a batch-norm takes times zero."""
    named = bound(fold)
    var, gamma = (named[n] and rw.tensor(named[n]) for n in ("var", "gamma"))
    inverse = norm_factor(var, gamma, named["eps"]).reciprocal()
    layout = {name: named[name] for name in ("groups", "transposed")}
    return scale_channels(restored, inverse, **layout)
