"""A prepared model as JSON and tensors: calibration and training go on where they were.

Stored are the graph with its observers or fake-quants and their state, the graph that a model in
training means, what conversion needs (the passes to come, the example inputs, the report's sites),
and the decisions that were made. Not stored is the model as captured: conversion of a loaded model
has nothing to compare its float graph with, and says so in the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, fx, nn

from qfx.backends.base import Backend
from qfx.configuration.configuration import Configuration, ResolvedQConfig
from qfx.errors import ConfigError, FormatError
from qfx.framework.pass_base import Pass
from qfx.framework.pipeline import Pipeline
from qfx.graph.clone import copy_graph
from qfx.graph.leaves import has_hooks
from qfx.graph.verify import verify
from qfx.graph.working import WorkingGraphModule
from qfx.history.history import History
from qfx.history.snapshot import snapshot
from qfx.runtime.prepared import PreparationSettings, PreparedModel
from qfx.runtime.trained import Trained
from qfx.storage.attributes import make_root, write_attributes
from qfx.storage.facts import FactWriter
from qfx.storage.fields import Json
from qfx.storage.geometry import check_reads_as_told
from qfx.storage.graphs import build_graph, write_graph
from qfx.storage.hardware import backend_for, check_saturation
from qfx.storage.memory import check_memory
from qfx.storage.passes import read_passes, with_flat_constants, write_passes
from qfx.storage.prepared_records import Examples, PreparedRecord, TrainedRecord
from qfx.storage.shells import restore_shells, write_shells
from qfx.storage.tensors import TensorSource, TensorStore
from qfx.storage.values import write_value
from qfx.training.schedule import QATSchedule
from qfx.training.trainable import TrainableModel, trainable


class SettledConfiguration(Configuration):
    """What is left of a configuration once it has decided: its warnings."""

    def __init__(self, warnings: tuple[str, ...]) -> None:
        self._warnings = dict.fromkeys(warnings)

    def resolve(self, node: fx.Node) -> ResolvedQConfig:
        """Refuse: a file holds decisions, not rules."""
        raise ConfigError(
            "the model comes from a file, which holds what was decided and not the rules; a pass "
            "after calibration asks for rules. Prepare the float model anew"
        )


# -- writing -------------------------------------------------------------------------------------
def write_prepared(
    model: PreparedModel, store: TensorStore, schedule: QATSchedule | None
) -> dict[str, Json]:
    """A prepared model as JSON, with the schedule that trains it.

    Raises:
        FormatError: it holds what a file can't; the message says what and where.
    """
    settings, facts = model.settings, FactWriter()
    if has_hooks(model):
        raise FormatError(
            "the model has hooks, which are code, and files hold none. Remove them, save, and hook "
            "them to what qfx.load returns"
        )
    graph = write_graph(model.graph, facts, store)
    trained = settings.trained
    graphs = (model.graph,) if trained is None else (model.graph, trained.graph)
    backend = settings.backend
    rest = [step for step in settings.rest if isinstance(step, Pass)]
    written: dict[str, Json] = {
        "method": settings.method,
        "training": model.training,
        "backend": {"name": backend.name, "saturates": backend.saturates},
        "graph": graph,
        "attributes": write_attributes(model, graphs, store),
        "rest": list(write_passes(rest, backend)),
        "level": str(settings.rest.start),
        "examples": write_examples((settings.example_inputs, dict(settings.example_kwargs)), store),
        "sites": [[o.node, o.module_path, o.source, o.type_name] for o in settings.sites],
        "warnings": list(settings.configuration.warnings),
        "size_before": settings.size_before,
        "samples": [write_examples((s.args, s.kwargs), store) for s in model.samples],
        **write_shells(model),
    }
    check_memory(model.graph, store)
    if trained is not None:
        assert isinstance(model, TrainableModel)
        weights: dict[str, Json] = {
            name: [list(pair) for pair in pairs] for name, pairs in trained.weights.items()
        }
        meaning = write_graph(trained.graph, facts, store)
        frozen = model.batchnorm_frozen
        in_training: dict[str, Json] = {"graph": meaning, "weights": weights, "frozen": frozen}
        if schedule is not None:
            in_training["schedule"] = list(schedule.at)
        written["trained"] = in_training
    else:
        written["changed"] = model.parameters_changed
        written["buffers"] = {
            name: store.keep(tensor, f"before.{name}") for name, tensor in settings.buffers.items()
        }
    return written | {"tables": facts.tables()}


def write_examples(given: Examples, store: TensorStore) -> Json:
    """Example inputs, by position and by keyword."""

    def keep(tensor: Tensor) -> str:
        return store.keep(tensor, "examples.input")

    try:
        return write_value(given, keep)
    except FormatError as error:
        raise FormatError(f"the example inputs can't be written: {error}") from None


# -- putting together ----------------------------------------------------------------------------
def build_prepared(
    record: PreparedRecord,
    source: TensorSource,
    given: Mapping[str, nn.Module],
    wanted: str | Backend | None,
    history: History,
    region: str = "main",
) -> PreparedModel:
    """The model of a record, or the region of one."""
    backend = backend_for(record.backend, wanted)
    root = make_root(record.held, source, given)
    graph_module = WorkingGraphModule(root, build_graph(record.graph))
    graph_module.training = record.training
    verify(graph_module)
    check_reads_as_told(graph_module)
    history = _at_present(history, graph_module, region)
    check_saturation(backend, graph_module.graph, saturated=record.saturates)
    trained = _trained(record.trained, graph_module)
    rest = with_flat_constants(read_passes(record.rest, backend, record.backend), record.level)
    settings = PreparationSettings(
        method=record.method,
        backend=backend,
        configuration=SettledConfiguration(record.warnings),
        before=Pipeline((), backend=backend),
        rest=Pipeline(rest, start=record.level, backend=backend),
        example_inputs=record.examples[0],
        example_kwargs=record.examples[1],
        sites=record.sites,
        captured=None,
        expected=None,
        size_before=record.size_before,
        buffers=record.buffers,
        trained=trained,
        region=region,
    )
    made: PreparedModel
    if record.trained is not None:
        made = _in_training(record.trained, graph_module, history, settings)
    else:
        made = PreparedModel(graph_module, history, settings)
        made.__dict__["_changed"] = record.changed
    for args, kwargs in record.samples:
        made.samples.offer(args, kwargs)
    restore_shells(made, record.shells, given)
    return made


def _at_present(history: History, graph_module: fx.GraphModule, region: str) -> History:
    """The history with its last stage as read off the graph, so that passes tell what they change.

    Records of files know nothing of live nodes (:attr:`NodeRecord.fingerprint`).
    """
    stages = list(history)
    now = snapshot(graph_module, region=region)
    if not stages or stages[-1].snapshot != now:
        return history
    return History([*stages[:-1], replace(stages[-1], snapshot=now)])


def _in_training(
    record: TrainedRecord,
    graph_module: fx.GraphModule,
    history: History,
    settings: PreparationSettings,
) -> TrainableModel:
    made = trainable(graph_module, history, settings, frozen=record.frozen)
    if record.schedule is not None:
        steps, observers, batchnorm = record.schedule
        made.schedule = QATSchedule(made, freeze_observers=observers, freeze_batchnorm=batchnorm)
        made.schedule.steps = steps
    return made


def _trained(record: TrainedRecord | None, owner: WorkingGraphModule) -> Trained | None:
    if record is None:
        return None
    trained = Trained(build_graph(record.graph), dict(record.weights))
    for _, module in (pair for pairs in record.weights.values() for pair in pairs):
        if not isinstance(owner.get_submodule(module), nn.Module):
            raise FormatError(f"the model rounds a weight by {module[:80]!r}, which it has not")
    verify(WorkingGraphModule(owner, copy_graph(trained.graph)))
    trained.rounded(owner)  # whose weights are operands of these nodes, or this fails
    return trained
