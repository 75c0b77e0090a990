"""Puts a model of regions together: of a float model, and of what a file says of its regions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from qfx.backends.base import Backend
from qfx.errors import FormatError
from qfx.graph.ways import CallForm, region_of
from qfx.history.history import History
from qfx.history.merging import merged_history
from qfx.report.merging import merged_report
from qfx.runtime.prepared import PreparedModel
from qfx.runtime.quantized import QuantizedModel
from qfx.runtime.regions import Regions, join_ways, with_regions
from qfx.storage.attributes import ModuleRecord, lacking
from qfx.storage.histories import StoredHistory, UnkeptHistory
from qfx.storage.names import within
from qfx.storage.prepared import build_prepared
from qfx.storage.prepared_records import PreparedRecord
from qfx.storage.quantized import build_quantized
from qfx.storage.regions import RegionsRecord, outside, tensors_outside
from qfx.storage.tensors import TensorSource, give_values
from qfx.storage.ways import build_inside
from qfx.training.schedule import QATSchedule

_BUILT_ALIKE = "Give the float model that was quantized, or one that was built the same way"


def build_regions(
    record: RegionsRecord,
    source: TensorSource,
    model: nn.Module,
    given: Mapping[str, nn.Module],
    wanted: str | Backend | None,
    histories: Mapping[str, History],
) -> nn.Module:
    """A copy of ``model`` with the regions of a record, and the values that its tensors had.

    Args:
        record: the regions.
        source: the tensors.
        model: the float model.
        given: modules whose code is not in the file, by path in the model.
        wanted: the backend, None for the one that it was saved for.
        histories: of the regions.
    """
    places = _places(record, model)
    made: dict[str, QuantizedModel | PreparedModel] = {}
    for region in record.regions:
        inner = _inside(region.name, places[region.name], given)
        history = histories[region.name]
        if isinstance(region.model, PreparedRecord):
            made[region.name] = build_prepared(
                region.model, source, inner, wanted, history, region.name
            )
        else:
            made[region.name] = build_quantized(region.model, source, inner, wanted, history)
    _join(record, places, made, source)
    shared = {stored for stored in record.state.values() if source.is_made(stored)}
    result = _in_place(record, model, places, made, histories)
    _restore(result, made, record, source, shared)
    return result


def missing_modules(
    record: RegionsRecord, model: nn.Module, given: Mapping[str, nn.Module]
) -> list[ModuleRecord]:
    """The modules whose code is neither in the file nor in the model."""
    places = _places(record, model)
    found = []
    for region in record.regions:
        inner = _inside(region.name, places[region.name], given)
        found += lacking(region.model.held, inner)
    return found


def _places(record: RegionsRecord, model: nn.Module) -> dict[str, nn.Module]:
    """The modules of the model in whose places the regions are to be."""
    modules = dict(model.named_modules(remove_duplicate=False))
    names = {region.name for region in record.regions}
    places: dict[str, nn.Module] = {}
    for region in record.regions:
        path = region_of(region.name)
        module = modules.get(path) if path else None
        if module is None or type(module).__name__ != region.facts.kind:
            there = "no module" if module is None else f"a {type(module).__name__}"
            raise FormatError(
                f"region {region.name[:200]!r} was made of a {region.facts.kind[:200]}, and the "
                f"model has {there} of that name. {_BUILT_ALIKE}"
            )
        taken = any(module is m and path != region_of(n) for n, m in places.items())
        if taken or within(path, names) or (path != region.name and path not in places):
            raise FormatError(f"region {region.name[:200]!r} is a part of another one")
        places[region.name] = module
    return places


def _inside(name: str, module: nn.Module, given: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """What a region may call whose code is not in the file, by path in the region."""
    prefix = f"{region_of(name)}."
    handed = {n.removeprefix(prefix): m for n, m in given.items() if n.startswith(prefix)}
    return {**dict(module.named_modules()), **handed}


def _join(
    record: RegionsRecord,
    places: Mapping[str, nn.Module],
    made: Mapping[str, nn.Module],
    source: TensorSource,
) -> None:
    """Let the graphs of each region answer its calls between them, as they did."""
    insides: dict[str, nn.Module] = {}
    forms: dict[str, Mapping[CallForm, int]] = {}
    for region in record.regions:
        if region.ways is None:
            continue
        name = region.name
        graphs = [graph for n, graph in made.items() if region_of(n) == name]
        if not graphs or any(at >= len(graphs) for at in region.ways.forms.values()):
            raise FormatError(f"region {name[:200]!r} has not so many graphs")
        forms[name] = region.ways.forms
        if region.ways.inside is not None:
            insides[name] = build_inside(region.ways.inside, places[name], graphs, source)
    join_ways(made, insides, forms)


def _in_place(
    record: RegionsRecord,
    model: nn.Module,
    places: Mapping[str, nn.Module],
    made: Mapping[str, QuantizedModel | PreparedModel],
    histories: Mapping[str, History],
) -> nn.Module:
    regions = Regions(made, record.surroundings)
    graphs = {places[name]: graph for name, graph in made.items() if region_of(name) == name}
    result = with_regions(model, graphs, regions)
    reports = {n: g.report for n, g in made.items() if isinstance(g, QuantizedModel)}
    if reports:
        around, history = record.surroundings, _whole_history(histories)
        report = merged_report(
            reports,
            around.left,
            size_bytes=(around.size_before, record.size_after),
            history=history,
            work=around.work,
            warnings=record.told,
        )
        result.__dict__.update(report=report, history=history)
    if record.schedule is not None:
        steps, observers, batchnorm = record.schedule
        schedule = QATSchedule(result, freeze_observers=observers, freeze_batchnorm=batchnorm)
        schedule.steps = steps
        regions.schedule = schedule
    return result


def _whole_history(histories: Mapping[str, History]) -> History:
    """The history of the whole, made when it is first looked at."""
    if any(isinstance(history, UnkeptHistory) for history in histories.values()):
        return UnkeptHistory()
    return StoredHistory(lambda: list(merged_history(histories)))


def _restore(
    result: nn.Module,
    graphs: Mapping[str, nn.Module],
    record: RegionsRecord,
    source: TensorSource,
    shared: set[str],
) -> None:
    """Give what is around the regions the values and the modes that it had.

    Args:
        result: the model with its regions in place.
        graphs: the regions.
        record: what the file says.
        source: the tensors.
        shared: the tensors of the file that a region holds, too: they are one.
    """
    own = {name: (registry, leaf) for name, registry, leaf in tensors_outside(result, graphs)}
    different = sorted(own.keys() ^ record.state.keys())
    if different:
        raise _other(different[0])
    for name, stored in record.state.items():
        registry, leaf = own[name]
        tensor, ours = source.find(stored), registry[leaf]
        assert ours is not None
        if (tensor.shape, tensor.dtype) != (ours.shape, ours.dtype):
            raise _other(name)
        if stored in shared:
            registry[leaf] = _shared(stored, source, is_parameter=isinstance(ours, nn.Parameter))
            continue
        give_values(name, ours, tensor)
        if isinstance(ours, nn.Parameter) and ours.is_floating_point():
            ours.requires_grad_(name not in record.frozen)
    for path, module in outside(result, graphs):
        module.training = path in record.training


def _shared(stored: str, source: TensorSource, *, is_parameter: bool) -> torch.Tensor:
    if is_parameter and stored not in source.parameters:
        raise FormatError(
            f"tensor {stored[:200]!r} is a parameter in one place, and none in another"
        )
    return source.parameters[stored] if is_parameter else source.find(stored)


def _other(name: str) -> FormatError:
    return FormatError(
        f"the model is another than was saved: {name[:200]!r}, which is in no region, differs. "
        f"{_BUILT_ALIKE}"
    )


def needs_model(record: RegionsRecord) -> FormatError:
    """What is said to who gives no model."""
    names = ", ".join(region.name[:100] for region in record.regions[:10])
    return FormatError(
        f"the file holds regions ({names}) of a {record.kind[:200]}, whose code is not in it. "
        "Give the float model, or one built like it: qfx.load(path, model=float_model)"
    )
