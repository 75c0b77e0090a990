"""Models of several regions, compiled: each region by itself, in place."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from qfx.capture.regions.recording import RecordedCall, record
from qfx.engines.compiled import CompiledModel
from qfx.errors import ConfigError
from qfx.graph.ways import WAYS, Ways, region_of, ways_of
from qfx.runtime.regions import Regions, with_regions

Compile = Callable[[nn.Module, Mapping[str, Any]], CompiledModel]


def compile_regions(
    model: nn.Module,
    regions: Regions[Any],
    example: tuple[tuple[Any, ...], Mapping[str, Any]] | None,
    compile_one: Compile,
) -> nn.Module:
    """A copy of ``model`` whose regions are compiled.

    Args:
        model: of several regions, quantized.
        regions: they.
        example: arguments of the model, by position and by keyword; None for those that it was
            quantized with.
        compile_one: compiles a region for the arguments that it is given by name.

    Raises:
        ConfigError: the example inputs don't reach a region.
    """
    around = regions.surroundings
    args, kwargs = example or (around.example_inputs, around.example_kwargs)
    if not (args or kwargs):
        raise ConfigError(
            "the model comes from a file, which keeps no example inputs: give them, "
            "qfx.compile(model, example_inputs=...)"
        )
    calls = record(model, args, kwargs).calls
    made: dict[nn.Module, CompiledModel] = {}
    for name, region in first_graphs(regions):
        given = _first(calls[name].kept, ways_of(region))
        if given is None:
            raise ConfigError(
                f"region {name!r} is not called on the example inputs: give some that reach it"
            )
        bound = inspect.signature(region.forward).bind(*given.args, **given.kwargs)
        made[region] = compile_one(region, bound.arguments)
    return compiled_in_place(model, regions, made)


def first_graphs(regions: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """The graph of each region that is compiled; others run in eager, where that one refuses."""
    yield from ((name, graph) for name, graph in regions.items() if region_of(name) == name)


def compiled_in_place(
    model: nn.Module, regions: Regions[Any], made: Mapping[nn.Module, CompiledModel]
) -> nn.Module:
    """A copy of ``model`` whose regions are what was ``made`` of them."""
    for region, compiled in made.items():
        ways = ways_of(region)
        if ways is not None:
            vars(compiled)[WAYS] = copy.deepcopy(ways, {id(each): each for each in ways.others})
    graphs = {name: made.get(region, region) for name, region in regions.items()}
    return with_regions(model, made, Regions(graphs, regions.surroundings))


def _first(calls: Sequence[RecordedCall], ways: Ways[Any] | None) -> RecordedCall | None:
    """The largest call that the first graph of a region takes."""
    taken = (each for each in calls if ways is None or ways.forms.get(each.form, 0) == 0)
    return next(taken, None)
