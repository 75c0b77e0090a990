"""The report: for each float operation of the model, what became of it and why.

Derived from two graphs and nothing else: the capture says which operations there were, the lowered
graph says which kernel runs each of them, or carries the decision to leave it float.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import fx, nn

from qfx.graph import meta
from qfx.graph.macs import macs
from qfx.quant.annotation import Decision, Kernel, annotation, kernel_of
from qfx.report.reasons import refusal
from qfx.report.table import table


@dataclass(frozen=True)
class Site:
    """One float operation of the captured graph.

    Attributes:
        node: its name in the captured graph.
        module_path: the module that holds it, "" for the root.
        source: "file:line" of the user's code, or "".
        op: the operation as written, e.g. "Conv2d".
        decision: "quantized" or "float".
        kernel: the integer kernel that runs it, or "".
        reason: code of :data:`qfx.report.reasons.REASONS`, or "" when quantized.
        message: the reason in one sentence.
        remedy: what to do about it, or "".
        macs: its multiply-accumulates with the example inputs.
        region: the traced region that holds it.
    """

    node: str
    module_path: str
    source: str
    op: str
    decision: str
    kernel: str
    reason: str
    message: str
    remedy: str
    macs: int
    region: str = "main"


@dataclass(frozen=True)
class QuantizationReport:
    """What was quantized, what was not, and why; ``print()`` shows a table.

    Attributes:
        sites: one per float operation of the captured graph, in graph order.
        coverage: fraction of the model's multiply-accumulates that run in integer kernels; None for
            a model without any.
        size_bytes: bytes of parameters, buffers and qparams (before, after), unpacked.
        backend: name of the backend.
        warnings: settings that had no effect.
    """

    sites: tuple[Site, ...]
    coverage: float | None
    size_bytes: tuple[int, int]
    backend: str
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join((*self._summary(), "", self._table(), *self._notes()))

    def _summary(self) -> Iterable[str]:
        done = sum(site.decision == "quantized" for site in self.sites)
        before, after = self.size_bytes
        covered = "no MACs" if self.coverage is None else f"{self.coverage:.1%} of MACs"
        yield f"Quantized for {self.backend}: {done} of {len(self.sites)} operations, {covered}"
        smaller = before / max(after, 1)
        yield f"Size: {_bytes(before)} -> {_bytes(after)} ({smaller:.1f} times smaller)"

    def _table(self) -> str:
        rows = [
            (
                s.node,
                s.op,
                s.decision,
                s.kernel or s.reason,
                _count(s.macs),
                s.module_path,
                s.source,
            )
            for s in self.sites
        ]
        return table(
            ("site", "op", "decision", "kernel / reason", "MACs", "module", "source"), rows
        )

    def _notes(self) -> Iterable[str]:
        reasons = Counter((s.reason, s.message, s.remedy) for s in self.sites if s.reason)
        if reasons:
            yield ""
            yield "Why float:"
        for (reason, message, remedy), count in reasons.most_common():
            advice = f" -> {remedy}" if remedy else ""
            yield f"  {reason} ({count}): {message}{advice}"
        for warning in self.warnings:
            yield f"  warning: {warning}"


def build_report(
    captured: fx.GraphModule,
    reference: fx.GraphModule,
    lowered: fx.GraphModule,
    *,
    backend: str,
    size_before: int,
    warnings: Sequence[str] = (),
) -> QuantizationReport:
    """Derive the report of a conversion from its capture, reference and lowered graphs."""
    outcomes = _Outcomes(reference, lowered)
    sites = tuple(outcomes.site(node) for node in captured.graph.nodes if _is_site(node))
    return QuantizationReport(
        sites=sites,
        coverage=outcomes.coverage(),
        size_bytes=(size_before, size_bytes(reference)),
        backend=backend,
        warnings=tuple(warnings),
    )


class _Outcomes:
    """What became of each captured operation."""

    def __init__(self, reference: fx.GraphModule, lowered: fx.GraphModule) -> None:
        self.kernels: dict[str, str] = {}
        self.decisions: dict[str, Decision] = {}
        self.macs: Counter[str] = Counter()
        self.total = 0
        self.integer = 0
        for node in reference.graph.nodes:
            self._count(node)
        for node in lowered.graph.nodes:
            self._record(node)

    def _count(self, node: fx.Node) -> None:
        amount = macs(node)
        self.total += amount
        for origin in meta.origins(node)[:1]:
            self.macs[origin.node] += amount

    def _record(self, node: fx.Node) -> None:
        kernel, note = kernel_of(node), annotation(node)
        if kernel is None and note is not None and note.decision.quantized:
            kernel = Kernel("reference", macs(node))  # a backend without kernels
        if kernel is not None:
            self.integer += kernel.macs
        for origin in meta.origins(node):
            if kernel is not None:
                self.kernels.setdefault(origin.node, kernel.name)
            elif note is not None:
                self.decisions.setdefault(origin.node, note.decision)

    def coverage(self) -> float | None:
        return self.integer / self.total if self.total else None

    def site(self, node: fx.Node) -> Site:
        (origin,) = meta.origins(node)
        kernel = self.kernels.get(node.name, "")
        decision = self.decisions.get(node.name) or refusal("removed")
        if kernel:
            decision = Decision(True)
        return Site(
            node=node.name,
            module_path=origin.module_path,
            source=origin.source,
            op=origin.type_name.rpartition(".")[2],
            decision="quantized" if kernel else "float",
            kernel=kernel,
            reason=decision.reason,
            message=decision.message,
            remedy=decision.remedy,
            macs=self.macs[node.name],
        )


def _is_site(node: fx.Node) -> bool:
    return node.op.startswith("call_") and meta.is_float_value(node) and bool(meta.origins(node))


def size_bytes(module: nn.Module) -> int:
    """Bytes of the distinct parameters and buffers of a module."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _bytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _count(amount: int) -> str:
    return f"{amount / 1e6:.1f}M" if amount else ""
