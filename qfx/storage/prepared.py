"""A prepared model as JSON and tensors: calibration and training go on where they were.

Stored are the graph with its observers or fake-quants and their state, the graph that a model in
training means, what conversion needs (the passes to come, the example inputs, the report's sites),
and the decisions that were made. Not stored is the model as captured: conversion of a loaded model
has nothing to compare its float graph with, and says so in the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn

from qfx.backends.base import Backend
from qfx.configuration.configuration import Choice, Configuration
from qfx.errors import ConfigError, FormatError
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pipeline import Pipeline
from qfx.graph.clone import copy_graph
from qfx.graph.leaves import has_hooks
from qfx.graph.meta import Origin
from qfx.graph.verify import verify
from qfx.graph.working import WorkingGraphModule
from qfx.history.history import History
from qfx.history.snapshot import snapshot
from qfx.runtime.quantized import PreparedModel, Settings
from qfx.runtime.trained import Trained
from qfx.storage.attributes import Held, make_root, read_attributes, write_attributes
from qfx.storage.facts import FactReader, FactWriter
from qfx.storage.fields import Fields, Json
from qfx.storage.geometry import check_reads_as_told
from qfx.storage.graphs import GraphRecord, build_graph, check_reads, read_graph, write_graph
from qfx.storage.hardware import backend_for, check_saturation
from qfx.storage.memory import check_memory
from qfx.storage.passes import read_passes, write_passes
from qfx.storage.targets import Types
from qfx.storage.tensors import TensorSource, TensorStore
from qfx.storage.values import ValueReader, write_value
from qfx.training.schedule import QATSchedule
from qfx.training.trainable import TrainableModel, trainable

_METHODS = ("static", "dynamic", "weight_only", "qat")


class SettledConfiguration(Configuration):
    """What is left of a configuration once it has decided: its warnings."""

    def __init__(self, warnings: tuple[str, ...]) -> None:
        self._warnings = dict.fromkeys(warnings)

    def resolve(self, node: fx.Node) -> Choice:
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
        "examples": _write_examples(settings, store),
        "sites": [[o.node, o.module_path, o.source, o.type_name] for o in settings.sites],
        "warnings": list(settings.configuration.warnings),
        "size_before": settings.size_before,
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


def _write_examples(settings: Settings, store: TensorStore) -> Json:
    def keep(tensor: Tensor) -> str:
        return store.keep(tensor, "examples.input")

    try:
        given = (settings.example_inputs, dict(settings.example_kwargs))
        return write_value(given, keep)
    except FormatError as error:
        raise FormatError(f"the example inputs can't be written: {error}") from None


# -- reading -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class TrainedRecord:
    """What a model in training means, checked."""

    graph: GraphRecord
    weights: Mapping[str, tuple[tuple[str, str], ...]]
    frozen: bool
    schedule: tuple[int, int | None, int | None] | None


@dataclass(frozen=True)
class PreparedRecord:
    """A prepared model, checked, before anything of it is made.

    Attributes:
        method, training: as it was prepared, and its training flag.
        backend, saturates: the name of its backend, and whether its kernels saturated.
        graph, held: the graph, and what it reads and calls.
        rest, level: the passes to come, and where they start.
        examples: example inputs by position and keyword.
        sites, warnings, size_before: for the report.
        changed, buffers: of calibration, see :class:`~qfx.runtime.quantized.PreparedModel`.
        trained: of training.
    """

    method: str
    training: bool
    backend: str
    saturates: bool
    graph: GraphRecord
    held: Held
    rest: tuple[str, ...]
    level: Level
    examples: tuple[tuple[Any, ...], dict[str, Any]]
    sites: tuple[Origin, ...]
    warnings: tuple[str, ...]
    size_before: int
    changed: bool
    buffers: Mapping[str, Tensor]
    trained: TrainedRecord | None


def read_prepared(fields: Fields, types: Types, source: TensorSource) -> PreparedRecord:
    """The prepared model that JSON describes.

    Raises:
        FormatError: it describes none.
    """
    facts = FactReader(fields.record("tables"))
    held = read_attributes(fields.records("attributes"))
    graph = read_graph(fields.record("graph"), facts, types, source.find)
    made_for = fields.record("backend")
    trained = None
    if fields.has("trained"):
        trained = _read_trained(fields.record("trained"), facts, types, source)
    fields.any("trained")
    check_reads((graph,) if trained is None else (graph, trained.graph), held)
    buffers = fields.record("buffers") if fields.has("buffers") else Fields({}, "buffers")
    fields.any("buffers")
    record = PreparedRecord(
        fields.choice("method", _METHODS),
        fields.flag("training"),
        made_for.text("name"),
        made_for.flag("saturates"),
        graph,
        held,
        fields.texts("rest", 1000),
        Level[fields.choice("level", Level.__members__)],
        _read_examples(fields, source),
        tuple(_origin(fields, each) for each in fields.items("sites")),
        fields.texts("warnings"),
        fields.integer("size_before"),
        fields.flag("changed", False),
        {name: source.find(buffers.text(name)) for name in buffers.names()},
        trained,
    )
    made_for.close()
    fields.close()
    if (record.method == "qat") != (trained is not None):
        fields.refuse("method", "and what is trained don't go together")
    return record


def _read_examples(fields: Fields, source: TensorSource) -> tuple[tuple[Any, ...], dict[str, Any]]:
    found = ValueReader(source.find).read(fields.any("examples"), f"{fields.place}.examples")
    right = type(found) is tuple and len(found) == 2 and type(found[0]) is tuple
    if not right or type(found[1]) is not dict or not all(type(k) is str for k in found[1]):
        fields.refuse("examples", "are no inputs")
    args, kwargs = found
    return args, kwargs


def _origin(fields: Fields, value: object) -> Origin:
    if type(value) is not list or len(value) != 4 or not all(type(v) is str for v in value):
        fields.refuse("sites", "holds something that is no operation")
    return Origin(*value)


def _read_trained(
    fields: Fields, facts: FactReader, types: Types, source: TensorSource
) -> TrainedRecord:
    graph = read_graph(fields.record("graph"), facts, types, source.find)
    said = fields.record("weights")
    called = {node.name: node for node in graph.nodes}
    weights = {}
    for name in said.names():
        pairs = said.items(name)
        if name not in called or not all(_is_pair(pair) and pair[0] in called for pair in pairs):
            said.refuse(name, "is no layer with weights")
        weights[name] = tuple((weight, module) for weight, module in pairs)
    record = TrainedRecord(graph, weights, fields.flag("frozen"), _read_schedule(fields))
    fields.close()
    return record


def _read_schedule(fields: Fields) -> tuple[int, int | None, int | None] | None:
    if not fields.has("schedule"):
        fields.any("schedule")
        return None
    numbers = fields.items("schedule", 3)
    right = len(numbers) == 3 and type(numbers[0]) is int
    if not right or not all(n is None or (type(n) is int and n >= 0) for n in numbers):
        fields.refuse("schedule", "is no number of steps, and two at which to freeze")
    steps, observers, batchnorm = numbers
    return steps, observers, batchnorm


def _is_pair(value: object) -> bool:
    return type(value) is list and len(value) == 2 and all(type(each) is str for each in value)


# -- putting together ----------------------------------------------------------------------------
def build_prepared(
    record: PreparedRecord,
    source: TensorSource,
    given: Mapping[str, nn.Module],
    wanted: str | Backend | None,
    history: History,
) -> PreparedModel:
    """The model of a record."""
    backend = backend_for(record.backend, wanted)
    root = make_root(record.held, source, given)
    graph_module = WorkingGraphModule(root, build_graph(record.graph))
    graph_module.training = record.training
    verify(graph_module)
    check_reads_as_told(graph_module)
    history = _at_present(history, graph_module)
    check_saturation(backend, graph_module.graph, saturated=record.saturates)
    trained = _trained(record.trained, graph_module)
    rest = read_passes(record.rest, backend, record.backend)
    settings = Settings(
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
    )
    if record.trained is not None:
        return _in_training(record.trained, graph_module, history, settings)
    made = PreparedModel(graph_module, history, settings)
    made.__dict__["_changed"] = record.changed
    return made


def _at_present(history: History, graph_module: fx.GraphModule) -> History:
    """The history with its last stage as read off the graph, so that passes tell what they change.

    Records of files know nothing of live nodes (:attr:`NodeRecord.fingerprint`).
    """
    now, stages = snapshot(graph_module), list(history)
    if not stages or stages[-1].snapshot != now:
        return history
    return History([*stages[:-1], replace(stages[-1], snapshot=now)])


def _in_training(
    record: TrainedRecord, graph_module: fx.GraphModule, history: History, settings: Settings
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
