"""What a file tells of a prepared model, read and checked, before anything is built of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from qfx.framework.levels import Level
from qfx.graph.meta import Origin
from qfx.runtime.samples import MOST as MOST_SAMPLES
from qfx.storage.attributes import HeldRecords, read_attributes
from qfx.storage.facts import FactReader
from qfx.storage.fields import Fields
from qfx.storage.graphs import GraphRecord, check_reads, read_graph
from qfx.storage.shells import ShellsRecord, read_shells
from qfx.storage.targets import Types
from qfx.storage.tensors import TensorSource
from qfx.storage.values import ValueReader

Examples = tuple[tuple[Any, ...], dict[str, Any]]
"""Example inputs by position and by keyword."""

_METHODS = ("static", "dynamic", "weight_only", "qat")


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
        changed, buffers: of calibration, see :class:`~qfx.runtime.prepared.PreparedModel`.
        trained: of training.
        shells: of the modules that no node calls.
        samples: batches that calibration has kept.
    """

    method: str
    training: bool
    backend: str
    saturates: bool
    graph: GraphRecord
    held: HeldRecords
    rest: tuple[str, ...]
    level: Level
    examples: Examples
    sites: tuple[Origin, ...]
    warnings: tuple[str, ...]
    size_before: int
    changed: bool
    buffers: Mapping[str, Tensor]
    trained: TrainedRecord | None
    shells: ShellsRecord
    samples: tuple[Examples, ...]


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
        read_examples(fields, source),
        tuple(_origin(fields, each) for each in fields.items("sites")),
        fields.texts("warnings"),
        fields.integer("size_before"),
        fields.flag("changed", False),
        {name: source.find(buffers.text(name)) for name in buffers.names()},
        trained,
        read_shells(fields),
        tuple(_example(fields, each, source) for each in fields.items("samples", MOST_SAMPLES)),
    )
    made_for.close()
    fields.close()
    if (record.method == "qat") != (trained is not None):
        fields.refuse("method", "and what is trained don't go together")
    return record


def read_examples(fields: Fields, source: TensorSource) -> Examples:
    """What ``write_examples`` wrote."""
    return _example(fields, fields.any("examples"), source)


def _example(fields: Fields, value: object, source: TensorSource) -> Examples:
    """Arguments by position and by keyword."""
    found = ValueReader(source.find).read(value, f"{fields.place}.examples")
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
    record = TrainedRecord(graph, weights, fields.flag("frozen"), read_schedule(fields))
    fields.close()
    return record


def read_schedule(fields: Fields) -> tuple[int, int | None, int | None] | None:
    """The steps that a schedule has taken, and those at which it freezes; None if there is none."""
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
