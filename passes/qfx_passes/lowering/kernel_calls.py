"""Calls of kernels: one operation of the reference form, as its row of the backend's table has it.

What the row declines stays as it is, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from qfx.backends.base import Backend, KernelRule, LoweringSite
from qfx.graph import meta
from qfx.graph.later_tensors import LaterTensors
from qfx.graph.macs import macs
from qfx.quant.annotation import Annotation, Kernel, annotate, kernel_of, mark_kernel
from qfx.quant.meaning import Meaning, set_meaning
from qfx.quant.qparams import QParams
from qfx.quant.reasons import refusal
from qfx.quant.reference_form import Measured, QuantizedWeight, quantized_weight
from qfx.rewrite.pattern import Mismatch
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import bound
from qfx_passes.lowering.emitted import bias_codes, settle_emitted
from qfx_passes.operands import operation_name, weight_operands


@dataclass(frozen=True)
class Integers:
    """The integer tensor that stands for a float value.

    Attributes:
        node: what yields it.
        qparams: what its codes mean.
    """

    node: fx.Node
    qparams: QParams | Measured


class KernelCalls:
    """What writes them; the :class:`~qfx.backends.base.Emitter` of rows.

    Args:
        backend: whose kernels these are.
        rw: the gate.
    """

    def __init__(self, backend: Backend, rw: Rewriter) -> None:
        self.backend = backend
        self.rw = rw
        self._packed: dict[tuple[object, ...], str] = {}

    def emit(
        self,
        node: fx.Node,
        rule: KernelRule,
        inputs: Mapping[fx.Node, Integers],
        output: QParams | None,
        *,
        shares: bool = False,
    ) -> fx.Node | None:
        """Write the call in front of ``node``; None, and the reason with it, where that can't be.

        Args:
            node: the float operation.
            rule: its row.
            inputs: its operands that are at hand in integers.
            output: qparams of the result; None for float.
            shares: whether these are the input's, whose values only move.
        """
        inputs = self._laid_out(node, rule, inputs)
        arguments = bound(node)
        bias = self._bias(arguments.get("bias")) if rule.weight else None
        weights = tuple(self._weights(node)) if rule.weight else ()
        axes = [w.qparams.axis for w in weights if w.qparams.axis is not None]
        if rule.weight and any(axis != rule.weight.axis for axis in axes):
            # A kernel would read beyond the scales.
            decline(node, Mismatch("its weight has scales along axis {0}", axes[0]))
            return None
        site = LoweringSite(
            node=node,
            arguments=arguments,
            inputs={v: (known.node, known.qparams) for v, known in inputs.items()},
            output=output,
            weights=weights,
            bias=bias,
        )
        if rule.bias is not None and bias is not None:
            codes = bias_codes(site, bias)
            if isinstance(codes, Mismatch):
                decline(node, codes)
                return None
            site = replace(site, bias=codes)
        with self.rw.at(node), self.rw.deriving(node):
            try:
                lowered = rule.emit(self, site) if rule.emit else self._same_op(site)
                if isinstance(lowered, Mismatch):
                    decline(node, lowered)
                    return None
                settle_emitted(self.rw, lowered, site, rule)
            except Exception:
                self.rw.blame(rule.kernel, node)
                raise
            # Where emit had a choice of kernels, it said which it took.
            mark_kernel(lowered, kernel_of(lowered) or Kernel(rule.kernel, macs(node)))
            if output is not None and not shares:
                lowered = self._within(lowered, output)
        set_meaning(lowered, Meaning(node.name, node.name, qparams=output))
        return lowered

    def _laid_out(
        self, node: fx.Node, rule: KernelRule, inputs: Mapping[fx.Node, Integers]
    ) -> Mapping[fx.Node, Integers]:
        """``inputs`` in the memory format in which the kernel reads them."""
        if rule.layout is None:
            return inputs
        found = {}
        for value, known in inputs.items():
            info = meta.value_of(known.node)
            with self.rw.at(node):
                laid = self.rw.call_method(
                    "contiguous", known.node, memory_format=rule.layout,
                    origins=(known.node,), value=info,
                )  # fmt: skip
            found[value] = replace(known, node=laid)
        return found

    def _weights(self, node: fx.Node) -> Iterator[QuantizedWeight]:
        for operand in weight_operands(node):
            assert isinstance(operand, fx.Node)
            weight = quantized_weight(operand, self.rw.graph_module)
            if weight is not None:
                yield weight

    def _bias(self, bias: object) -> Tensor | None:
        return self.rw.tensor(bias) if isinstance(bias, fx.Node) else None

    def _within(self, codes: fx.Node, qparams: QParams) -> fx.Node:
        """``codes`` clamped to the bounds of ``qparams``: kernels saturate where the dtype ends."""
        ends, clamp = torch.iinfo(qparams.dtype), self.backend.clamp
        bounds = qparams.quant_min, qparams.quant_max
        if bounds == (ends.min, ends.max) or codes.target is clamp:
            return codes
        value = meta.value_of(codes)
        return self.rw.call(clamp, codes, *bounds, origins=(codes,), value=value)

    def _same_op(self, site: LoweringSite) -> fx.Node:
        """The operation itself on integers: exact where values only move."""
        node = site.node
        assert not isinstance(node.target, str)
        swap = {v: integers for v, (integers, _) in site.inputs.items()}
        args: Any = fx.map_arg(node.args, lambda v: swap.get(v, v))
        kwargs: Any = fx.map_arg(node.kwargs, lambda v: swap.get(v, v))
        first, _ = next(iter(site.inputs.values()))
        lowered = self.rw.call(node.target, *args, origins=(node,), **kwargs)
        value = meta.value_of(first)
        value = value[0] if isinstance(value, (tuple, list)) else value
        assert isinstance(value, meta.TensorInfo)
        self.rw.values.restate(lowered, meta.with_dtype(meta.value_of(node), value.dtype))
        return lowered

    def packed(
        self, key: tuple[object, ...], recipe: Callable[[], Any], *, apart: bool = False
    ) -> fx.Node:
        """A get_attr of a packed constant, made once per key."""
        if key not in self._packed:
            later = self.rw.get(LaterTensors) if apart and self.rw.has(LaterTensors) else None
            made = recipe() if later is None else later.later(recipe)
            self._packed[key] = self.rw.attach("packed.weight", made)
        return self.rw.attribute(self._packed[key])


def decline(node: fx.Node, mismatch: Mismatch) -> None:
    """Leave ``node`` float, and say why."""
    decision = refusal(
        "unsupported",
        detail=f"{operation_name(node)}: {mismatch.reason}",
        remedy="leave it float",
    )
    annotate(node, Annotation(decision))
