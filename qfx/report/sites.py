"""The report: for each float operation of the model, what became of it and why.

It is derived in :mod:`qfx.report.outcomes`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qfx.graph.findings import Finding
from qfx.history.history import History
from qfx.history.labels import label
from qfx.report.checked import Checked
from qfx.report.explain import Explanation, explain
from qfx.report.page import report_page
from qfx.report.text import report_text


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
        """The place of the site in one word: ``layer1.0.conv1``, or ``layer1.0:add`` for a call."""
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
        made_of: a checksum of the float model's parameters; "" where they are not known.
    """

    sites: tuple[Site, ...]
    coverage: float | None
    size_bytes: tuple[int, int]
    backend: str
    warnings: tuple[str, ...] = ()
    checked: Checked | None = None
    saturates: bool = False
    history: History | None = field(default=None, compare=False, repr=False)
    made_of: str = ""

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
