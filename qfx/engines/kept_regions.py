"""A compiled model of regions in a file: the quantized one, and what was chosen for each region."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from qfx.engines.compiled import CompiledModel
from qfx.engines.kept import describe, quantized_of, revived
from qfx.engines.regional import compiled_in_place, first_graphs
from qfx.errors import FormatError
from qfx.graph.ways import ways_of
from qfx.runtime.quantized import QuantizedModel
from qfx.runtime.regions import Regions, regions_of
from qfx.storage.fields import Fields, Json
from qfx.storage.files import Describe
from qfx.storage.tensors import TensorSource, TensorStore
from qfx.storage.ways import check_as_made


def compiled_regions(model: object) -> Regions[Any] | None:
    """The regions of a model of which they were compiled, else None."""
    regions = regions_of(model)
    if regions is None or not any(isinstance(each, CompiledModel) for each in regions.values()):
        return None
    return regions


def quantized_regions(regions: Regions[Any]) -> Regions[QuantizedModel]:
    """The quantized models that compiled regions were made of.

    Raises:
        FormatError: an attribute of one was set, which no file tells.
    """
    found: dict[str, QuantizedModel] = {}
    for name, graph in regions.items():
        is_compiled = isinstance(graph, CompiledModel)
        ways = ways_of(graph) if is_compiled else None
        if ways is not None:
            check_as_made(ways)
        found[name] = quantized_of(graph) if is_compiled else graph
    return Regions(found, regions.surroundings)


def describe_regions(regions: Regions[Any]) -> Describe:
    """What a file says of compiled regions, besides the quantized ones."""

    def said(store: TensorStore) -> Json:
        written: dict[str, Json] = {}
        for name, graph in regions.items():
            if isinstance(graph, CompiledModel):
                store.prefix = f"{name}."
                written[name] = describe(graph)(store)
        store.prefix = ""
        return written

    return said


def revived_regions(
    model: nn.Module,
    regions: Regions[QuantizedModel],
    fields: Fields,
    source: TensorSource,
    path: str | os.PathLike[str],
) -> nn.Module:
    """A copy of ``model`` whose regions are compiled as a file tells.

    Raises:
        FormatError: the file tells of none, or of others.
    """
    graphs = dict(first_graphs(regions))
    if set(fields.names()) != set(graphs):
        raise FormatError(f"{os.fspath(path)}: what it says was compiled are not its regions")
    made: dict[nn.Module, CompiledModel] = {}
    for name, graph in graphs.items():
        assert isinstance(graph, QuantizedModel)
        made[graph] = revived(graph, fields.record(name), source, path)
    return compiled_in_place(model, regions, made)
