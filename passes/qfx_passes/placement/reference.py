"""reference: turn observers into explicit quantize/dequantize, and weights into integers.

    observer(x)  ->  dequantize(quantize(x, scale, zero_point), scale, zero_point)
    x, dynamic   ->  the same, with scale, zero_point = dynamic_qparams(x)
    @w           ->  dequantize(@w_int8, @w_scale, zero_point, axis=...)
                     dequantize(unpack(@w_4bit), ...)     for codes of 4 bits
                     widen(@w_half)                       for float16
    recurrent op ->  the same op, measured=(dtype, low, high, symmetric): its hidden state, likewise

The result is the stable meaning of a quantized model: it runs anywhere in float arithmetic, it is
what is saved and exported, and lowered forms are derived from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor, fx

from qfx.configuration.configuration import Configuration
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.quant.annotation import Annotation, Edge, annotation, mark_rangeless
from qfx.quant.fake_quant import FakeQuantize
from qfx.quant.observers import Observer
from qfx.quant.qparams import QParams
from qfx.quant.recorders import observer_of, recorder_of
from qfx.quant.spec import QuantSpec
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import (
    DEQUANTIZE,
    DYNAMIC_QPARAMS,
    GETITEM,
    QUANTIZE,
    RECURRENT,
    STUBS,
    UNPACK,
    WIDEN,
    is_op,
)
from qfx_passes.operands import weight_operands
from qfx_passes.placement.calibrated import (
    calibrated_qparams,
    check_calibrated,
    note_late_ranges,
    warn_of_zeros,
)
from qfx_passes.placement.place_observers import after
from qfx_passes.weights import (
    QuantizedWeights,
    StoredWeight,
    quantized_weights,
    stored_weight,
)


class Reference(Pass):
    """Replace observers by q/dq nodes and constant weights by integers."""

    name = "reference"
    keeps_values = False
    requires = Level.OBSERVED
    produces = Level.REFERENCE

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        check_calibrated(graph)
        observers = {n: found for n in graph.nodes if (found := observer_of(n)) is not None}
        chosen = {node: calibrated_qparams(node, observer) for node, observer in observers.items()}
        if ctx.has(Configuration):
            warn_of_zeros(graph, ctx.get(Configuration))
            note_late_ranges(graph, ctx.get(Configuration))
        weights = _Weights(ctx.rewriter, quantized_weights(ctx))
        measured = _Measured(ctx.rewriter)
        for node in list(graph.nodes):
            if node in observers:
                _replace_observer(node, observers[node], chosen[node], ctx.rewriter)
                continue
            if recorder_of(node) is not None:  # nobody asked what it recorded
                ctx.rewriter.replace(node, node.args[0])
                continue
            note = annotation(node)
            if note is None or not note.decision.quantized:
                continue
            measured.quantize(node, note)
            if is_op(node, *RECURRENT):
                _measure_inside(node, note, ctx.rewriter)
            if note.weight is not None:
                weights.quantize(node, note.weight, note.weight_qparams)
        for node in list(graph.nodes):  # last: annotations know what they read by name
            if is_op(node, *STUBS):
                ctx.rewriter.replace(node, node.args[0])


def _replace_observer(
    node: fx.Node, observer: Observer | FakeQuantize, qparams: QParams, rw: Rewriter
) -> None:
    value = node.args[0]
    assert isinstance(value, fx.Node)
    with rw.at(node):
        integers = quantize_node(rw, value, qparams)
        if observer.lacks_range:
            mark_rangeless(integers)
        rw.replace(node, dequantize_node(rw, integers, qparams, value))


def quantize_node(rw: Rewriter, value: fx.Node, qparams: QParams) -> fx.Node:
    """QUANTIZE of ``value`` with per-tensor qparams."""
    info = meta.tensor_info(value)
    assert info is not None
    return rw.call(
        QUANTIZE,
        value,
        qparams.scale,
        qparams.zero_point,
        origins=(value,),
        value=meta.TensorInfo(info.shape, qparams.dtype),
        dtype=qparams.dtype,
        quant_min=_unless(torch.iinfo(qparams.dtype).min, qparams.quant_min),
        quant_max=_unless(torch.iinfo(qparams.dtype).max, qparams.quant_max),
    )


def _unless(bound: int, value: int) -> int | None:
    """None where ``value`` is what the dtype has anyway."""
    return None if value == bound else value


def dequantize_node(rw: Rewriter, integers: fx.Node, qparams: QParams, like: fx.Node) -> fx.Node:
    """DEQUANTIZE of ``integers``, yielding what ``like`` yields."""
    return rw.call(
        DEQUANTIZE,
        integers,
        qparams.scale,
        qparams.zero_point,
        origins=(like,),
        value=meta.value_of(like),
    )


class _Measured:
    """Quantizes what is measured at run time: each value once per spec."""

    def __init__(self, rw: Rewriter) -> None:
        self.rw = rw
        self.done: dict[tuple[fx.Node, int], fx.Node] = {}

    def quantize(self, node: fx.Node, note: Annotation) -> None:
        for value in list(node.all_input_nodes):
            edge = _edge_of(value, note)
            if edge is None or not edge.spec.dynamic:
                continue
            key = value, edge.group
            if key not in self.done:
                with self.rw.at(after(value)):
                    self.done[key] = self._restored(value, edge.spec)
            self.rw.rewire(node, value, self.done[key])

    def _restored(self, value: fx.Node, spec: QuantSpec) -> fx.Node:
        info = meta.tensor_info(value)
        assert info is not None
        low, high = spec.bounds
        limits = torch.iinfo(spec.dtype)
        codes: dict[str, object] = {
            "dtype": spec.dtype,
            "quant_min": _unless(limits.min, low),
            "quant_max": _unless(limits.max, high),
        }
        numbers = (meta.TensorInfo((), torch.float32), meta.TensorInfo((), torch.int32))
        pair = self.rw.call(
            DYNAMIC_QPARAMS, value, origins=(value,), value=numbers, symmetric=spec.symmetric,
            power_of_two=spec.power_of_two, **codes,
        )  # fmt: skip
        qparams = [
            self.rw.call(GETITEM, pair, i, origins=(value,), value=number)
            for i, number in enumerate(numbers)
        ]
        shaped = meta.TensorInfo(info.shape, spec.dtype)
        integers = self.rw.call(QUANTIZE, value, *qparams, origins=(value,), value=shaped, **codes)
        return self.rw.call(DEQUANTIZE, integers, *qparams, origins=(value,), value=info)


def _measure_inside(node: fx.Node, note: Annotation, rw: Rewriter) -> None:
    """Let a recurrent layer round its hidden state as it rounds its input, if it does."""
    if not note.reads:
        return
    spec = next(edge.spec for edge in note.reads.values())
    measured = (spec.dtype, *spec.bounds, spec.symmetric)
    rw.update(node, kwargs={**node.kwargs, "measured": measured})


def _edge_of(value: fx.Node, note: Annotation) -> Edge | None:
    """How ``value``, or what it is the quantized form of, is read."""
    while value.name not in note.reads and is_op(value, QUANTIZE, DEQUANTIZE):
        source = value.args[0]
        assert isinstance(source, fx.Node)
        value = source
    return note.reads.get(value.name)


class _Weights:
    """Quantizes each constant weight once per spec, however often it is read."""

    def __init__(self, rw: Rewriter, quantized: QuantizedWeights) -> None:
        self.rw = rw
        self.quantized = quantized
        # By the tensor rather than its name: tied weights have two. It is held, so that its id is.
        self.done: dict[tuple[int, QuantSpec], tuple[list[str], StoredWeight, Tensor]] = {}

    def quantize(
        self, node: fx.Node, spec: QuantSpec, trained: Sequence[QParams | None] = ()
    ) -> None:
        operands = dict.fromkeys(weight_operands(node))
        for weight, qparams in zip_longest(operands, trained):
            assert isinstance(weight, fx.Node)
            if is_op(weight, DEQUANTIZE, WIDEN):
                continue
            with self.rw.at(node):
                restored = self._restored(weight, spec, qparams)
            self.rw.rewire(node, weight, restored)
            if not weight.users:
                self.rw.erase(weight)

    def _restored(self, weight: fx.Node, spec: QuantSpec, trained: QParams | None) -> fx.Node:
        tensor = self.rw.tensor(weight)
        key = (id(tensor), spec)
        if key not in self.done:
            if trained is not None:
                self.quantized.put(str(weight.target), tensor, spec, trained)
            form = stored_weight(str(weight.target), tensor, spec, self.quantized)
            names = [
                self.rw.register(f"{weight.target}_{part}", kept)
                for part, kept in form.parts.items()
            ]
            self.done[key] = names, form, tensor
        names, form, _ = self.done[key]
        codes, *numbers = (self.rw.attribute(name, origins=(weight,)) for name in names)
        value, qparams = meta.value_of(weight), form.qparams
        if qparams is None:
            return self.rw.call(WIDEN, codes, origins=(weight,), value=value)
        if "q4" in form.parts:
            plain = meta.TensorInfo(tuple(tensor.shape), qparams.dtype)
            named: dict[str, object] = {"dtype": qparams.dtype}
            if tensor.shape[1] % 2:
                named["columns"] = tensor.shape[1]
            codes = self.rw.call(UNPACK, codes, origins=(weight,), value=plain, **named)
        return self.rw.call(
            DEQUANTIZE,
            codes,
            *(numbers or (qparams.scale, qparams.zero_point)),
            origins=(weight,),
            value=value,
            axis=qparams.axis,
            group_size=qparams.group_size,
        )
