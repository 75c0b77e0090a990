"""Models of several regions, compiled: each region by itself, in place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from qfx.capture.regions.recording import record
from qfx.engines.compiled import CompiledModel
from qfx.errors import ConfigError
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
    calls = record(model, args, kwargs).calls
    made: dict[nn.Module, CompiledModel] = {}
    for name, region in regions.items():
        if not calls[name].kept:
            raise ConfigError(
                f"region {name!r} is not called on the example inputs: give some that reach it"
            )
        given = calls[name].kept[0]
        bound = inspect.signature(region.forward).bind(*given.args, **given.kwargs)
        made[region] = compile_one(region, bound.arguments)
    graphs = {name: made[region] for name, region in regions.items()}
    return with_regions(model, made, Regions(graphs, around))
