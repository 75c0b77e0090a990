"""Which operations may be quantized: the row of the backend and the choice of the user, or why not.

Asked in this order: what the operation is, where it lies, what writes to what it reads, what the
user chose, what the backend has, and whether its kernel takes this very call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import fx

from qfx import vocab
from qfx.backends import others_with
from qfx.backends.base import Backend, Demand, KernelRule
from qfx.backends.fitting import (
    in_float,
    narrowed,
    not_in,
    overflows,
    too_flat,
    unfit,
    unlaid,
)
from qfx.backends.probing.slow_geometries import TooSlow
from qfx.backends.saturation import HIGHEST_SAFE
from qfx.configuration.configuration import Configuration, ResolvedQConfig
from qfx.graph import meta
from qfx.graph.effects import is_random
from qfx.graph.known_calls import makes_numbers
from qfx.graph.leaves import has_hooks
from qfx.graph.memory import Memory
from qfx.graph.scripted import Scripted
from qfx.quant.annotation import Decision
from qfx.quant.reasons import elsewhere, refusal
from qfx.quant.spec import QConfig
from qfx.rewrite.pattern import Mismatch
from qfx.torch_private import is_grouped_product
from qfx.vocab import Kind, OpDef
from qfx_passes.operands import (
    bias_operands,
    float_operands,
    is_constant,
    is_lookup,
    operation_name,
    post_names,
    weight_operands,
)
from qfx_passes.placement.fills import filled
from qfx_passes.placement.quantized_region import QuantizedRegion
from qfx_passes.placement.rows import Rows

_UNKNOWN_INPUT = "the shape of what it reads is unknown: a pass made that, and did not say"
_GIVE_VALUES = "in that pass, make nodes with ctx.rewriter.call(..., value=...)"


def sparse_values(graph: fx.Graph) -> set[fx.Node]:
    """The values that are sparse, or may be: products are dense, the rest is like its operands."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        keeps = isinstance(node.target, OpDef) and node.target.kind is not Kind.MATMUL
        if meta.is_sparse(node) or (keeps and not found.isdisjoint(node.all_input_nodes)):
            found.add(node)
    return found


class Eligibility:
    """Judges the operations of one graph."""

    def __init__(self, graph: fx.Graph, backend: Backend, configuration: Configuration) -> None:
        self.backend = backend
        self.configuration = configuration
        self.region = QuantizedRegion(graph).nodes(graph)
        self.memory = Memory(graph)
        self.filled = filled(graph)
        self.sparse = sparse_values(graph)
        self.rows = Rows(graph)
        self.told: set[tuple[str, str]] = set()

    def judge(self, node: fx.Node) -> tuple[KernelRule, ResolvedQConfig] | Decision:
        """The row and the choice that quantize ``node``, or why it stays float."""
        op = operation_name(node)
        if node.op == "call_module":
            return _opaque(node)
        if is_random(node):
            return refusal("random", op=op)
        if isinstance(node.target, Scripted):
            return refusal("opaque-function", op=operation_name(node))
        if any(map(meta.is_complex, node.all_input_nodes)):
            return refusal("complex", op=op)
        if not isinstance(node.target, OpDef):
            if makes_numbers(node):
                return refusal("makes-numbers", op=op)
            if is_grouped_product(node.target):
                return refusal("grouped-product", op=op)
            note = meta.note_of(node)
            return refusal("unknown-form" if note else "unknown-op", op=op, note=note)
        if node not in self.region:
            return refusal("outside-stubs")
        for operand in node.all_input_nodes:
            culprit = self.memory.culprit(operand, node)
            if culprit is not None:
                return refusal("overwritten", detail=meta.where(culprit))
        if not self.sparse.isdisjoint(node.all_input_nodes):
            return refusal("sparse", op=op)
        choice = self.configuration.resolve(node)
        choice = self._settled(node, choice)
        if choice.qconfig is None:
            return refusal(choice.reason, rule=choice.rule)
        rows, method = self.backend.rows(node.target), choice.qconfig.method
        rule = self.backend.rule(node.target, method)
        if rule is None and not _is_meant(choice, rows):
            return self._no_kernel(node, rows, method)
        if rule is None:
            return self._not_honoured(node, choice, not_in(method, rows))
        misfit = unfit(node, choice.qconfig, rule, self.backend)
        if misfit is not None:
            return self._not_honoured(node, choice, misfit)
        return self._supported(node, rule, choice.qconfig) or (rule, choice)

    def _settled(self, node: fx.Node, choice: ResolvedQConfig) -> ResolvedQConfig:
        """``choice`` with the specs that ``node`` can get, whatever its kernel is."""
        qconfig = self.rows.settled(node, choice.qconfig)
        if qconfig is not None and self.backend.saturates and overflows(qconfig):
            qconfig = narrowed(qconfig)
            self.configuration.warn(
                f"{choice.rule}: sums of products of 8 bits saturate in the kernels of "
                f"{self.backend.name} on this machine, so activations get 7. Say so yourself "
                f"(quant_max={HIGHEST_SAFE}), or take what get_default_qconfig gives"
            )
        return replace(choice, qconfig=qconfig)

    def _no_kernel(self, node: fx.Node, rows: Sequence[KernelRule], method: str) -> Decision:
        """Why the backend has no kernel of ``method``, only ``rows``, and what to do."""
        named = bool(rows) and is_lookup(node)
        code = f"not-{method}".replace("_", "-") if method != "static" or named else "no-kernel"
        remedy = elsewhere(others_with(node.target, self.backend.name, method))
        if rows and not named:
            remedy = f"nothing to do if float is fine; else try method={rows[0].method!r}"
        assert isinstance(node.target, vocab.OpDef)
        weightless = not {"weight", "weights"} & set(node.target.signature.parameters)
        if weightless and method == "weight_only":
            code = "no-weight"
        elif method == "dynamic" and weightless and (not rows or rows[0].demand is Demand.PULLS):
            remedy = "nothing to do: it takes and hands out float"
        op = operation_name(node)
        return refusal(code, backend=self.backend.name, op=op, remedy=remedy)

    def _not_honoured(self, node: fx.Node, choice: ResolvedQConfig, misfit: Mismatch) -> Decision:
        told = (choice.rule, misfit.reason)  # once, however many operations a rule covers
        if told not in self.told:
            self.told.add(told)
            text = f"{choice.rule} has no effect on {meta.where(node)}: {misfit.reason}"
            self.configuration.warn(text)
        return refusal("config-unfit", detail=misfit.reason, rule=choice.rule)

    def _supported(self, node: fx.Node, rule: KernelRule, qconfig: QConfig) -> Decision | None:
        dtypes = {t.dtype for t in meta.float_tensors(meta.value_of(node))}
        if dtypes != {torch.float32}:
            return refusal("not-float32", detail=", ".join(map(str, dtypes)))
        for held in self._held(node, rule):
            writer = self.memory.any_writer(held)
            if writer is not None:
                return refusal("overwritten", detail=meta.where(writer))
        batched = rule.weight is not None and self.backend.quantize is not None
        if batched and not in_float(qconfig) and not is_lookup(node):
            rank = too_flat(node)
            if rank is not None:
                return refusal(
                    "unsupported", detail=rank.reason, remedy="give it a batch dimension"
                )
        if rule.weight is not None:
            for name, values in (("weight", weight_operands(node)), ("bias", bias_operands(node))):
                if not all(map(is_constant, values)):
                    return refusal("weight-not-constant", name=name)
        if rule.operands and not list(float_operands(node, rule.operands)):
            return refusal("unsupported", detail=_UNKNOWN_INPUT, remedy=_GIVE_VALUES)
        for value in (node, *float_operands(node, rule.operands)):
            if value in self.filled and qconfig.method == "static":
                return refusal("filled", detail=meta.where(self.filled[value]))
        mismatch = unlaid(node, float_operands(node, rule.operands), rule)
        if mismatch is None:
            mismatch = rule.refusal(node)
        if mismatch is not None:
            code = "slow-kernel" if isinstance(mismatch, TooSlow) else "unsupported"
            return refusal(code, detail=mismatch.reason, remedy="leave it float")
        if self.backend.probe is None or in_float(qconfig):  # emit chooses among kernels
            return None
        fault = self.backend.probe(rule.kernel, post_names(node))
        return refusal("kernel-failed-probe", op=rule.kernel, detail=fault) if fault else None

    def _held(self, node: fx.Node, rule: KernelRule) -> Iterator[fx.Node]:
        """The parameters and buffers whose values a kernel of ``rule`` takes once and for all."""
        data = set(float_operands(node, rule.operands))
        yield from (o for o in node.all_input_nodes if o.op == "get_attr" and o not in data)


def _opaque(node: fx.Node) -> Decision:
    """Why a module that is still called as it is stays float, and what to do about it."""
    note, remedy = meta.note_of(node), "replace it by layers that qfx knows"
    owner = node.graph.owning_module
    if owner is not None and has_hooks(owner.get_submodule(str(node.target))):
        remedy = "remove the hook"
    return refusal(
        "opaque-module",
        op=operation_name(node),
        note=f": {note}" if note else "",
        remedy=f"nothing to do if float is fine; else {remedy}",
    )


def _is_meant(choice: ResolvedQConfig, rows: Sequence[KernelRule]) -> bool:
    """Whether a rule of the configuration is about an operation, not just about all of a module."""
    named = choice.by_type or any(row.weight is not None for row in rows)
    return choice.specific and bool(rows) and named
