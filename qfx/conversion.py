"""Conversion: from a prepared model to the reference form, and from that to kernels, under a net.

passes up to the reference form -> lower, compare every call -> report -> QuantizedModel
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor, fx

from qfx.errors import CoverageError, warn
from qfx.framework.levels import Level
from qfx.framework.manager import transform
from qfx.framework.pass_base import Pass
from qfx.framework.pipeline import Pipeline
from qfx.garbage_collection import patiently
from qfx.graph.clone import clone_graph_module
from qfx.history.history import History
from qfx.quant.successors import HeirsOfKernels
from qfx.report.outcomes import build_report, checksum
from qfx.report.sites import QuantizationReport
from qfx.runtime.constants import share_constants
from qfx.runtime.prepared import PreparedModel
from qfx.runtime.quantized import Lowering, QuantizedModel
from qfx.runtime.samples import Samples
from qfx.verification.net import Net
from qfx.verification.put_back import keep_float


@patiently
def use_up(
    prepared: PreparedModel,
    *,
    min_coverage: float | None,
    check: bool = True,
    empty: bool = False,
    like: fx.GraphModule | None = None,
) -> QuantizedModel:
    """Convert ``prepared`` and use it up.

    Args:
        prepared: calibrated.
        min_coverage: least fraction of multiply-accumulates that must run in integers.
        check: compare what every step computes with what it should.
        empty: allow that nothing in it is quantized.
        like: the reference form of another graph of the same module, whose weights it shares.
    """
    settings, history = prepared.settings, prepared.history
    net = Net(prepared) if check else None
    prepared.restore_buffers()
    if settings.backend.cpu_only:
        prepared.to("cpu")
    ctx = settings.context(prepared).put(_samples(prepared))
    to_reference, to_lowered = _at_reference(settings.rest)
    if net is not None:
        net.check_float(prepared)
    made_of = checksum(_parameters(prepared))
    instruments = (*settings.instruments, *(net.instruments() if net else ()))
    transform(prepared, to_reference, ctx, history, instruments)
    reference = clone_graph_module(prepared, take=True)
    if like is not None:
        share_constants(reference, like)

    def lower(graph_module: fx.GraphModule, stages: History, put_back: Mapping[str, str]) -> None:
        ctx.graph_module = graph_module
        checks = net.instruments() if net else ()
        instruments = (HeirsOfKernels(), *settings.instruments, *checks)
        passes = (*keep_float(put_back), *to_lowered.passes)
        transform(graph_module, replace(to_lowered, passes=passes), ctx, stages, instruments)

    if net is not None:
        lowered, history = net.lower(reference, lower, history)
    else:
        lowered = clone_graph_module(reference)
        lower(lowered, history, {})
    report = build_report(
        settings.sites,
        reference,
        lowered,
        backend=settings.backend.name,
        size_before=settings.size_before,
        history=history,
        warnings=settings.configuration.warnings,
        checked=net.checked() if net else None,
        saturates=settings.backend.saturates,
        made_of=made_of,
    )
    if not empty:
        check_result(report, min_coverage)
    return QuantizedModel(
        lowered,
        reference,
        report=report,
        history=history,
        lowering=Lowering(
            settings.backend, tuple(step for step in to_lowered if isinstance(step, Pass))
        ),
    )


def _parameters(prepared: PreparedModel) -> Iterator[Tensor]:
    """The parameters of the float model that was captured, as training left them."""
    captured, trained = prepared.settings.captured, dict[str, Tensor]()
    if prepared.settings.method == "qat":
        trained = dict(prepared.named_parameters(remove_duplicate=False))
    for name, parameter in captured.named_parameters() if captured is not None else ():
        yield trained.get(name, parameter)


def _samples(prepared: PreparedModel) -> Samples:
    """Batches of calibration, where the model is."""
    return prepared.samples.to("cpu") if prepared.settings.backend.cpu_only else prepared.samples


def _at_reference(pipeline: Pipeline) -> tuple[Pipeline, Pipeline]:
    """The passes up to the reference form, and those from it on.

    What follows the reference form and changes values on purpose changes what is meant by it.
    """
    passes = pipeline.passes
    produced = [i for i, p in enumerate(passes) if getattr(p, "produces", None) is Level.REFERENCE]
    at = produced[-1] + 1 if produced else len(passes)
    while at < len(passes) and not getattr(passes[at], "keeps_values", True):
        at += 1
    before = replace(pipeline, passes=passes[:at])
    return before, replace(pipeline, passes=passes[at:], start=before.end)


def check_result(report: QuantizationReport, least: float | None) -> None:
    """CoverageError if nothing was quantized, or less than ``least`` of the MACs."""
    if not any(site.decision == "quantized" for site in report.sites):
        raise CoverageError(f"nothing was quantized\n{report}")
    if least is not None and report.coverage is not None and report.coverage < least:
        raise CoverageError(
            f"{report.coverage:.1%} of the multiply-accumulates were quantized, and "
            f"min_coverage={least} asks for {least:.1%}\n{report}"
        )
    if least is not None and report.unknown:
        labels = ", ".join(site.label for site in report.unknown[:3])
        warn(
            f"min_coverage={least} does not count {len(report.unknown)} operation(s) whose work "
            f"can't be known: {labels}. They stay float; see qmodel.report."
        )
