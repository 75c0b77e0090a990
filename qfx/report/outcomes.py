"""How a report is made: what became of each float operation of the captured graph.

Derived from two graphs and nothing else: the capture says which operations there were, the lowered
graph says which kernel runs each of them, or carries the decision to leave it float.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from zlib import crc32

import torch
from torch import Tensor, fx, nn

from qfx import vocab
from qfx.graph import meta
from qfx.graph.containers import makes_container
from qfx.graph.findings import Finding, findings
from qfx.graph.macs import macs
from qfx.graph.opaque_macs import opaque_macs
from qfx.history.history import History
from qfx.history.removal import removers
from qfx.quant.annotation import Annotation, Decision, Kernel, annotation, kernel_of
from qfx.quant.reasons import refusal, removal
from qfx.report.checked import Checked
from qfx.report.sites import QuantizationReport, Site
from qfx.vocab import is_op


def captured_sites(captured: fx.GraphModule) -> tuple[meta.Origin, ...]:
    """The float operations of a captured graph, in order: what a report has a site for."""
    nodes = (node for node in captured.graph.nodes if _is_site(node))
    return tuple(meta.origins(node)[0] for node in nodes)


def build_report(
    captured: Sequence[meta.Origin],
    reference: fx.GraphModule,
    lowered: fx.GraphModule,
    *,
    backend: str,
    size_before: int,
    history: History,
    warnings: Sequence[str] = (),
    checked: Checked | None = None,
    saturates: bool = False,
    made_of: str = "",
) -> QuantizationReport:
    """Derive the report of a conversion from its captured sites, reference and lowered graphs.

    What is in neither graph was removed; the history says by which pass.
    """
    outcomes = _Outcomes(reference, lowered)
    outcomes.removers = removers(
        list(history), filter(outcomes.is_gone, (o.node for o in captured))
    )
    sites = tuple(map(outcomes.site, captured))
    return QuantizationReport(
        sites=sites,
        coverage=outcomes.coverage(),
        size_bytes=(size_before, size_bytes(reference)),
        backend=backend,
        warnings=tuple(warnings),
        checked=checked,
        saturates=saturates,
        history=history,
        made_of=made_of,
    )


class _Outcomes:
    """What became of each captured operation."""

    def __init__(self, reference: fx.GraphModule, lowered: fx.GraphModule) -> None:
        self.kernels: dict[str, tuple[Kernel, str]] = {}  # with its step
        self.decisions: dict[str, tuple[Decision, int]] = {}  # with the MACs that it is about
        self.notes: dict[str, Annotation] = {}
        self.macs: Counter[str] = Counter()
        self.unknown: set[str] = set()
        self.total = 0
        self.integer = 0
        self.opaque = opaque_macs(reference)
        self.undecided: set[str] = set()
        self.findings: dict[str, dict[str, Finding]] = {}
        self.removers: dict[str, str] = {}
        for node in reference.graph.nodes:
            self._count(node)
        for node in lowered.graph.nodes:
            self._record(node)

    def _count(self, node: fx.Node) -> None:
        note = annotation(node)
        if note is not None and note.decision.quantized:
            self.notes.update((each.node, note) for each in meta.origins(node))
        amount = self.opaque.get(node, macs(node))
        origin = meta.origins(node)[:1]
        if amount is None:
            self.unknown.update(each.node for each in origin)
            return
        self.total += amount
        for each in origin:
            self.macs[each.node] += amount

    def _record(self, node: fx.Node) -> None:
        kernel, note = kernel_of(node), annotation(node)
        found = findings(node)
        for origin in meta.origins(node) if found else ():
            self.findings.setdefault(origin.node, {}).update(found)
        if kernel is None and note is not None and note.decision.quantized:
            kernel = Kernel("reference", macs(node))  # a backend without kernels
        if kernel is not None:
            self.integer += kernel.macs
        if kernel is None and note is None and _computes(node):
            self.undecided.add(meta.origins(node)[-1].node)
        for origin in meta.origins(node):
            if kernel is not None:
                self._keep_kernel(origin.node, kernel, node.name)
            elif note is not None:
                self._keep_decision(origin.node, note.decision, macs(node))

    def _keep_kernel(self, origin: str, kernel: Kernel, step: str) -> None:
        """Keep, of the kernels of one operation, the one that does most of its work."""
        known = self.kernels.get(origin)
        if known is None or kernel.macs > known[0].macs:
            self.kernels[origin] = kernel, step

    def _keep_decision(self, origin: str, decision: Decision, work: int) -> None:
        known = self.decisions.get(origin)
        if known is None or work > known[1]:
            self.decisions[origin] = decision, work

    def coverage(self) -> float | None:
        return self.integer / self.total if self.total else None

    def is_gone(self, name: str) -> bool:
        """Whether nothing stands for a captured operation any more."""
        return name not in self.kernels and name not in self.decisions

    def site(self, origin: meta.Origin) -> Site:
        note = self.notes.get(origin.node)
        kernel, step = self.kernels.get(origin.node, (None, ""))
        decision, work = self.decisions.get(origin.node, (None, 0))
        keeps_weight = note is not None and note.method == "weight_only"
        if kernel is not None and work and not (kernel.macs or keeps_weight):
            kernel, step = None, ""  # what moves is in integers, what multiplies is not
        decision = decision or self._without_decision(origin.node)
        if kernel is not None:
            decision = kernel.decision
        return Site(
            node=origin.node,
            module_path=origin.module_path,
            source=origin.source,
            op=origin.type_name.rpartition(".")[2],
            decision="quantized" if kernel else "float",
            kernel=kernel.name if kernel else "",
            reason=decision.reason,
            message=decision.message,
            remedy=decision.remedy,
            macs=self.macs[origin.node],
            step=step,
            unknown_macs=origin.node in self.unknown,
            method=note.method if kernel and note else "",
            rule=note.rule if kernel and note else "",
            findings=self.findings.get(origin.node, {}),
        )

    def _without_decision(self, name: str) -> Decision:
        return refusal("undecided") if name in self.undecided else removal(self.removers.get(name))


def _computes(node: fx.Node) -> bool:
    return (
        is_op(node)
        and not is_op(node, vocab.QUANTIZE, vocab.DEQUANTIZE)
        and meta.is_float_value(node)
        and bool(meta.origins(node))
    )


def _is_site(node: fx.Node) -> bool:
    if not node.op.startswith("call_") or makes_container(node):
        return False
    return meta.is_float_value(node) and bool(meta.origins(node))


def checksum(parameters: Iterable[Tensor]) -> str:
    """Tells parameters from others: by the sums of their bits, taken as integers."""
    distinct = {id(p): p.detach() for p in parameters if p.layout is torch.strided}
    sums = sorted((p.numel(), _sum_of_bits(p)) for p in distinct.values())
    return f"{crc32(repr(sums).encode()):08x}" if sums else ""


def _sum_of_bits(tensor: Tensor) -> int:
    """Integers that wrap around, so that the order in which they are added makes no difference."""
    return int(tensor.view(_INTEGERS[tensor.element_size()]).sum())


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def size_bytes(module: nn.Module) -> int:
    """Bytes of the distinct parameters and buffers of a module."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())
