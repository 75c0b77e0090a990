"""The report: for each float operation of the model, what became of it and why.

Derived from two graphs and nothing else: the capture says which operations there were, the lowered
graph says which kernel runs each of them, or carries the decision to leave it float.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import fx, nn

from qfx import vocab
from qfx.graph import meta
from qfx.graph.containers import makes_container
from qfx.graph.findings import Finding, findings
from qfx.graph.macs import macs
from qfx.graph.opaque_macs import opaque_macs
from qfx.history.history import History
from qfx.history.labels import label
from qfx.history.removal import removers
from qfx.quant.annotation import Annotation, Decision, Kernel, annotation, kernel_of
from qfx.quant.reasons import refusal, removal
from qfx.report.checked import Checked
from qfx.report.explain import Explanation, explain
from qfx.report.page import report_page
from qfx.report.text import report_text
from qfx.vocab import is_op


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
        reason: code of :data:`qfx.quant.reasons.REASONS`; "" when quantized, unless that is not
            all there is to say ("slow-kernel", "unfit-kernel").
        message: the reason in one sentence.
        remedy: what to do about it, or "".
        macs: its multiply-accumulates with the example inputs; 0 where they are unknown.
        step: the node of the lowered graph that runs it when quantized, or ""; operations that
            were fused have the same.
        region: the traced region that holds it.
        unknown_macs: whether its work is unknown: a module that can't be run without values, say.
        method: how it is quantized, "static", "dynamic" or "weight_only"; "" when it is not.
        rule: the rule of the configuration that chose how; "" when it is not.
        findings: what passes recorded of it, by name.
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
    step: str = ""
    region: str = "main"
    unknown_macs: bool = False
    method: str = ""
    rule: str = ""
    findings: Mapping[str, Finding] = field(default_factory=dict, hash=False)

    @property
    def runs_as(self) -> str:
        """The kernel, with the method where that is "dynamic" and it computes so; "" when float."""
        measured = self.method == "dynamic" and not self.reason
        return f"{self.kernel}, dynamic" if measured else self.kernel

    @property
    def label(self) -> str:
        """Where it is in one word: ``layer1.0.conv1``, or ``layer1.0:add`` for a call."""
        return label(self.node, self.module_path)

    @property
    def removed(self) -> bool:
        """Whether it was float and is not there any more."""
        return self.reason == "removed"


@dataclass(frozen=True)
class QuantizationReport:
    """What was quantized, what was not, and why; ``print()`` shows a table.

    Attributes:
        sites: one per float operation of the captured graph, in graph order.
        coverage: fraction of the model's multiply-accumulates that run in integer kernels, float
            modules included; None for a model without any. What is made float in front of its
            operation counts as float here; what :attr:`unknown` lists is left out.
        size_bytes: bytes of parameters, buffers and qparams (before, after), as the reference form
            holds them: kernels' own layouts don't count, and a 4-bit code counts half a byte.
        backend: name of the backend.
        warnings: settings that had no effect.
        checked: what was checked of the conversion, and on what; None where that was switched off.
        saturates: whether kernels add up products of 8-bit codes wrongly on this machine, so that
            activations keep to 7 bits.
        history: the stages that led to it, for :meth:`explain`.
    """

    sites: tuple[Site, ...]
    coverage: float | None
    size_bytes: tuple[int, int]
    backend: str
    warnings: tuple[str, ...] = ()
    checked: Checked | None = None
    saturates: bool = False
    history: History | None = field(default=None, compare=False, repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """How many operations are quantized, float and removed."""
        status = Counter("removed" if s.removed else s.decision for s in self.sites)
        return {key: status[key] for key in ("quantized", "float", "removed") if status[key]}

    @property
    def unknown(self) -> tuple[Site, ...]:
        """The sites whose work is unknown, and which coverage therefore leaves out."""
        return tuple(site for site in self.sites if site.unknown_macs)

    @property
    def reasons(self) -> dict[tuple[str, str, str], list[Site]]:
        """The sites that are not in integers by (reason, message, remedy), the most costly first.

        Costly: by multiply-accumulates, then by number; those that were removed come last.
        """
        found: dict[tuple[str, str, str], list[Site]] = {}
        for site in self.sites:
            if site.reason:
                found.setdefault((site.reason, site.message, site.remedy), []).append(site)
        return dict(sorted(found.items(), key=lambda item: _cost(item[1])))

    def explain(self, where: str) -> Explanation:
        """What was decided for an operation, by which rule, what else was tried, and what to do.

        Args:
            where: a site as the report prints it, a node of any stage, the path of a module (for
                all that is in it; "" is the model), or a pattern of these ("layer1.*", "*conv?").

        Raises:
            ConfigError: nothing is called so; the message has names that are like it.
        """
        return explain(self, where)

    def __str__(self) -> str:
        return report_text(self)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as one page that needs nothing else, and return its path.

        The page has a table to sort, search and filter; it loads nothing from a network.
        """
        page = Path(path)
        page.write_text(report_page(self), encoding="utf-8")
        return page


def _cost(sites: Sequence[Site]) -> tuple[bool, int, int]:
    return sites[0].removed, -sum(site.macs for site in sites), -len(sites)


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
        """Of the kernels of one operation the one that does most of its work tells what it is."""
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
        if kernel is not None and work > kernel.macs:
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


def size_bytes(module: nn.Module) -> int:
    """Bytes of the distinct parameters and buffers of a module."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())
