"""A model of several regions as JSON and tensors: they, and the state of what is around them.

The code around them is the user's, and not in the file. Who loads it hands the float model in, or
one built like it; a copy of that gets the regions in the places of its modules, and the values of
its other tensors from the file. What else it holds (attributes, hooks) is as it was handed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, fx, nn

from qfx.errors import FormatError
from qfx.graph.source import type_name
from qfx.graph.ways import ways_of
from qfx.private_attributes import tensors_held
from qfx.report.sites import QuantizationReport, Site
from qfx.runtime.prepared import PreparedModel
from qfx.runtime.quantized import QuantizedModel
from qfx.runtime.regions import RegionalContext, RegionFacts, Regions
from qfx.storage import limits
from qfx.storage.facts import FactReader, FactWriter
from qfx.storage.fields import Fields, Json
from qfx.storage.memory import check_memory
from qfx.storage.prepared import write_examples, write_prepared
from qfx.storage.prepared_records import (
    Examples,
    PreparedRecord,
    read_examples,
    read_prepared,
    read_schedule,
)
from qfx.storage.quantized import QuantizedRecord, read_quantized, write_quantized
from qfx.storage.reports import read_sites, write_sites
from qfx.storage.targets import Types
from qfx.storage.tensors import TensorSource, TensorStore
from qfx.storage.ways import WaysRecord, read_ways, write_ways
from qfx.training.schedule import QATSchedule

FEATURE = "regions"
"""What a reader must know to read such a file."""


def outside(model: nn.Module, graphs: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """The modules that are in no region, by all of their names."""
    inside = {id(module) for graph in graphs.values() for module in graph.modules()}
    named = model.named_modules(remove_duplicate=False)
    yield from ((name, module) for name, module in named if id(module) not in inside)


def tensors_outside(
    model: nn.Module, graphs: Mapping[str, nn.Module]
) -> Iterator[tuple[str, dict[str, Tensor | None], str]]:
    """Name, registry and name in the registry of each tensor that is in no region."""
    for path, module in outside(model, graphs):
        for registry in tensors_held(module):
            for leaf, tensor in registry.items():
                if tensor is not None:
                    yield f"{path}.{leaf}".lstrip("."), registry, leaf


# -- writing -------------------------------------------------------------------------------------
def write_regions(
    model: nn.Module,
    regions: Regions[QuantizedModel] | Regions[nn.Module],
    store: TensorStore,
    schedule: QATSchedule | None,
) -> dict[str, Json]:
    """A model of regions as JSON.

    Raises:
        FormatError: it holds what a file can't; the message says what, and in which region.
    """
    around, facts = regions.surroundings, FactWriter()
    parts: list[Json] = []
    for name, graph in regions.items():
        said = around.facts[name]
        parts.append({"name": name, **vars(said), **_write_part(name, graph, store)})
    state: dict[str, Json] = {}
    frozen: list[Json] = []
    for name, registry, leaf in tensors_outside(model, regions):
        tensor = registry[leaf]
        assert tensor is not None
        state[name] = store.keep(tensor, name)
        if isinstance(tensor, nn.Parameter) and not tensor.requires_grad:
            frozen.append(name)
    _check_memory(regions, store)
    training: list[Json] = [path for path, m in outside(model, regions) if m.training]
    written: dict[str, Json] = {
        "class": type_name(type(model)),
        "regions": parts,
        "state": state,
        "frozen": frozen,
        "training": training,
        "left": write_sites(around.left, facts),
        "size_before": around.size_before,
        "size_left": around.size_left,
        "warnings": list(around.warnings),
    }
    report = vars(model).get("report")
    if isinstance(report, QuantizationReport):
        written["size_after"], written["told"] = report.size_bytes[1], list(report.warnings)
    if around.work is not None:
        written["work"] = dict(around.work)
    if not all(isinstance(graph, QuantizedModel) for graph in regions.values()):
        examples = (around.example_inputs, dict(around.example_kwargs))
        written["examples"] = write_examples(examples, store)
    if schedule is not None:
        written["schedule"] = list(schedule.at)
    return written | {"tables": facts.tables()}


def _write_part(name: str, graph: nn.Module, store: TensorStore) -> dict[str, Json]:
    store.prefix = f"{name}."
    try:
        written: dict[str, Json] = {}
        if isinstance(graph, QuantizedModel):
            written["model"] = {"kind": "quantized", **write_quantized(graph, store)}
        else:
            assert isinstance(graph, PreparedModel)
            written["model"] = {"kind": "prepared", **write_prepared(graph, store, None)}
        ways = ways_of(graph)
        return written if ways is None else {**written, "ways": write_ways(ways, store)}
    except FormatError as error:
        raise FormatError(f"region {name!r}: {error}") from None
    finally:
        store.prefix = ""


def _check_memory(regions: Mapping[str, nn.Module], store: TensorStore) -> None:
    """Once more with the tensors of all regions, and what is around them."""
    for name, graph in regions.items():
        store.prefix = f"{name}."
        meant = graph.reference if isinstance(graph, QuantizedModel) else graph
        assert isinstance(meant, fx.GraphModule)
        check_memory(meant.graph, store)
    store.prefix = ""


# -- reading -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class RegionRecord:
    """A region, checked.

    Attributes:
        name: its path in the model.
        facts: what the plan knew of it.
        model: a graph that is in its place.
        ways: how calls are answered, of the first graph of a module.
    """

    name: str
    facts: RegionFacts
    model: QuantizedRecord | PreparedRecord
    ways: WaysRecord | None


@dataclass(frozen=True)
class RegionsRecord:
    """A model of regions, checked, before anything of it is made.

    Attributes:
        kind: the class of the model around them, for messages.
        regions: in order.
        state: the tensors of what is in no region: name -> name in the file.
        frozen: those parameters of it that have no gradient.
        training: paths of its modules that are in training mode.
        surroundings: what the model is besides.
        schedule: that of training: steps taken, and at which to freeze.
        size_after, told: of the report of the whole: bytes of the model, and warnings.
    """

    kind: str
    regions: tuple[RegionRecord, ...]
    state: Mapping[str, str]
    frozen: frozenset[str]
    training: frozenset[str]
    surroundings: RegionalContext
    schedule: tuple[int, int | None, int | None] | None
    size_after: int
    told: tuple[str, ...]


def read_regions(fields: Fields, types: Types, source: TensorSource) -> RegionsRecord:
    """The model of regions that JSON describes.

    Raises:
        FormatError: it describes none.
    """
    facts = FactReader(fields.record("tables"))
    parts = tuple(
        _read_part(each, types, source) for each in fields.records("regions", limits.REGIONS)
    )
    names = [part.name for part in parts]
    if not parts or len(set(names)) != len(names):
        fields.refuse("regions", "are none, or some have the same name")
    if len({type(part.model) for part in parts}) != 1:
        fields.refuse("regions", "are in part quantized and in part prepared")
    surroundings = RegionalContext(
        *_read_examples(fields, source),
        {part.name: part.facts for part in parts},
        _read_left(fields.record("left"), facts),
        fields.integer("size_before", 0, 1 << 60),
        fields.integer("size_left", 0, 1 << 60),
        _read_work(fields, names),
        fields.texts("warnings"),
    )
    state = fields.record("state")
    record = RegionsRecord(
        fields.text("class"),
        parts,
        {name: state.text(name) for name in state.names()},
        frozenset(fields.texts("frozen")),
        frozenset(fields.texts("training")),
        surroundings,
        read_schedule(fields),
        fields.integer("size_after", 0, 1 << 60, 0),
        fields.texts("told"),
    )
    fields.close()
    return record


def _read_part(fields: Fields, types: Types, source: TensorSource) -> RegionRecord:
    name = fields.text("name")
    said = RegionFacts(
        fields.text("kind"), fields.integer("calls"), fields.text("around"), fields.text("why")
    )
    model = fields.record("model")
    kind = model.choice("kind", ("quantized", "prepared"))
    read = read_quantized if kind == "quantized" else read_prepared
    record: QuantizedRecord | PreparedRecord = read(model, types, source)
    ways = read_ways(fields.record("ways"), source) if fields.has("ways") else None
    fields.any("ways")
    fields.close()
    return RegionRecord(name, said, record, ways)


def _read_examples(fields: Fields, source: TensorSource) -> Examples:
    if fields.has("examples"):
        return read_examples(fields, source)
    fields.any("examples")
    return (), {}


def _read_left(fields: Fields, facts: FactReader) -> tuple[Site, ...]:
    sites = read_sites(fields, facts)
    fields.close()
    return tuple(replace(site, kernel="") for site in sites)


def _read_work(fields: Fields, names: list[str]) -> Mapping[str, int] | None:
    if not fields.has("work"):
        fields.any("work")
        return None
    work = fields.record("work")
    found = {name: work.integer(name) for name in names}
    work.close()
    return found
