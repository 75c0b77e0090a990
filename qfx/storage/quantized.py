"""A quantized model as JSON and tensors: what it means, and how it was lowered.

Stored is the reference form. What runs is derived from it again, by the passes that derived it when
it was made; operations that were put back to float then, because their kernel failed the check,
stay float.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import fx, nn

from qfx.backends.base import Backend
from qfx.errors import FormatError
from qfx.framework.levels import Level
from qfx.framework.manager import apply
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.graph.clone import hide_opaque_values, shell
from qfx.graph.later_tensors import LaterTensors
from qfx.graph.leaves import has_hooks
from qfx.graph.working import WorkingGraphModule
from qfx.history.history import History
from qfx.quant.annotation import Decision, annotation
from qfx.quant.level_checks import QUANTIZATION
from qfx.report.sites import QuantizationReport
from qfx.runtime.constants import pin_constants
from qfx.runtime.inputs import rounded_inputs
from qfx.runtime.quantized import LaterReference, Lowering, QuantizedModel
from qfx.storage.attributes import (
    HeldRecords,
    make_root,
    read_attributes,
    write_attributes,
)
from qfx.storage.facts import FactReader, FactWriter
from qfx.storage.fields import Fields, Json
from qfx.storage.form import check_level
from qfx.storage.geometry import check_geometry, check_reads_as_told
from qfx.storage.graphs import GraphRecord, build_graph, check_reads, read_graph, write_graph
from qfx.storage.hardware import REFERENCE, backend_for, check_saturation
from qfx.storage.memory import check_memory
from qfx.storage.passes import read_lowering, write_passes
from qfx.storage.reports import read_report, write_report
from qfx.storage.targets import Types
from qfx.storage.tensors import TensorSource, TensorStore
from qfx.verification.put_back import KERNEL_FAILED, keep_float


# -- writing -------------------------------------------------------------------------------------
def write_quantized(model: QuantizedModel, store: TensorStore) -> dict[str, Json]:
    """A quantized model as JSON.

    Raises:
        FormatError: it holds what a file can't; the message says what and where.
    """
    reference = model.reference
    lowering: Lowering = model.__dict__["_lowering"]
    if has_hooks(model):
        raise FormatError(
            "the model has hooks, which are code, and files hold none. Remove them, save, and hook "
            "them to what qfx.load returns"
        )
    facts = FactWriter()
    graph = write_graph(reference.graph, facts, store)
    attributes = write_attributes(reference, (reference.graph,), store)
    check_memory(reference.graph, store)
    put_back: dict[str, Json] = {n: facts.decision(d) for n, d in _put_back(model).items()}
    report = write_report(model.report, facts)
    return {
        "backend": {"name": model.backend, "saturates": model.report.saturates},
        "lowering": list(write_passes(lowering.passes, lowering.backend)),
        "put_back": put_back,
        "graph": graph,
        "attributes": attributes,
        "report": report,
        "tables": facts.tables(),
    }


def _put_back(model: QuantizedModel) -> dict[str, Decision]:
    """The operations that stay float because their kernel was wrong, by node."""
    notes = ((node.name, annotation(node)) for node in model.graph.nodes)
    return {n: a.decision for n, a in notes if a is not None and a.decision.reason == KERNEL_FAILED}


# -- reading -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class QuantizedRecord:
    """A quantized model, checked, before anything of it is made.

    Attributes:
        backend: the name of its backend.
        saturates: whether kernels saturated where it was made.
        lowering: the names of the passes that lowered it.
        put_back: node -> why it stays float though the table has a kernel for it.
        graph: the reference form.
        held: what it reads and calls.
        report: as it was saved.
    """

    backend: str
    saturates: bool
    lowering: tuple[str, ...]
    put_back: Mapping[str, Decision]
    graph: GraphRecord
    held: HeldRecords
    report: QuantizationReport


def read_quantized(fields: Fields, types: Types, source: TensorSource) -> QuantizedRecord:
    """The quantized model that JSON describes.

    Raises:
        FormatError: it describes none.
    """
    facts = FactReader(fields.record("tables"))
    made_for, put_back = fields.record("backend"), fields.record("put_back")
    held = read_attributes(fields.records("attributes"))
    graph = read_graph(fields.record("graph"), facts, types, source.find)
    check_reads((graph,), held)
    record = QuantizedRecord(
        made_for.text("name"),
        made_for.flag("saturates"),
        fields.texts("lowering", 1000),
        {n: facts.decision(put_back.any(n), put_back.place) for n in put_back.names()},
        graph,
        held,
        read_report(fields.record("report"), facts),
    )
    made_for.close()
    fields.close()
    return record


def build_quantized(
    record: QuantizedRecord,
    source: TensorSource,
    given: Mapping[str, nn.Module],
    wanted: str | Backend | None,
    history: History,
) -> QuantizedModel:
    """The model of a record, lowered for this machine."""
    backend = backend_for(record.backend, wanted)
    graph = build_graph(record.graph)
    check_geometry(graph, source)
    check_saturation(backend, graph, saturated=record.saturates)
    root = make_root(record.held, source, given)
    lowered = WorkingGraphModule.over(shell(root), graph)
    check_reads_as_told(lowered)
    check_level(lowered, Level.REFERENCE)
    reference = LaterReference(
        lambda: WorkingGraphModule(root, build_graph(record.graph)), rounded_inputs(graph)
    )
    report = replace(record.report, history=history)
    if backend.name != record.backend:
        report = _of_reference(report, graph)
    put_back = {name: decision.message for name, decision in record.put_back.items()}
    passes = read_lowering(record.lowering, backend, record.backend)
    ctx = PassContext(lowered)
    with LaterTensors() as later:
        ctx.put(backend, QUANTIZATION, later)
        apply(lowered, (*keep_float(put_back), *passes), ctx)
        made = QuantizedModel(
            lowered, reference, report=report, history=history, lowering=Lowering(backend, passes)
        )
        later.settle(made)
    hide_opaque_values(made)
    pin_constants(made)
    return made


def _of_reference(report: QuantizationReport, graph: fx.Graph) -> QuantizationReport:
    """The report of the same model in its reference form: no kernels run."""
    steps = {o.node: n.name for n in graph.nodes for o in meta.origins(n) if annotation(n)}
    sites = tuple(
        replace(site, kernel=REFERENCE, step=steps.get(site.node, "")) if site.kernel else site
        for site in report.sites
    )
    return replace(report, sites=sites, backend=REFERENCE, saturates=False)
