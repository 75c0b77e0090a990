"""Regions in place: what a copy of the user's model holds in the place of some of its modules.

The copy is of the user's class; its attribute ``regions`` names them, and printed it is the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from qfx.errors import ConfigError
from qfx.graph.copying import deep_copied
from qfx.graph.in_place import place_of, take_place
from qfx.graph.ways import WAYS, CallForm, Ways, region_of, ways_of
from qfx.report.sites import Site
from qfx.runtime.quantized import QuantizedModel
from qfx.table import amount, table

Graph = TypeVar("Graph", bound=nn.Module)

ATTRIBUTE = "regions"
_OURS = (ATTRIBUTE, "report", "history")
"""The attribute of a model of regions that holds them."""


@dataclass(frozen=True)
class RegionFacts:
    """What the plan knows of a region.

    Attributes:
        kind: class of the module that it replaces.
        calls: how often that was called on the example inputs.
        around: the module around it that could not be captured; "" is the model.
        why: why not.
    """

    kind: str
    calls: int
    around: str
    why: str


@dataclass(frozen=True)
class RegionalContext:
    """What a model of regions is besides them.

    Attributes:
        example_inputs, example_kwargs: as given by the user.
        facts: of the regions, by name.
        left: sites of the layers that are in none.
        size_before: bytes of parameters and buffers of the user's model.
        size_left: those of what is in no region.
        work: multiply-accumulates of all calls of each region; None where they are unknown.
        warnings: of the settings that had no effect in any region.
    """

    example_inputs: tuple[Any, ...]
    example_kwargs: Mapping[str, Any]
    facts: Mapping[str, RegionFacts]
    left: tuple[Site, ...]
    size_before: int
    size_left: int
    work: Mapping[str, int] | None = None
    warnings: tuple[str, ...] = ()

    def __copy__(self) -> RegionalContext:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> RegionalContext:
        return self


class Regions(Mapping[str, Graph], Generic[Graph]):
    """The regions of a model by name; ``print()`` tells what they are and why there are several.

    Attributes:
        schedule: of a model that comes from a file, that which trained it, if it was saved.
    """

    schedule: object = None

    def __init__(self, graphs: Mapping[str, Graph], surroundings: RegionalContext) -> None:
        self._graphs = dict(graphs)
        self.surroundings = surroundings

    def __getitem__(self, name: str) -> Graph:
        if name not in self._graphs:
            known = ", ".join(self._graphs)
            raise ConfigError(f"there is no region {name!r}; the regions are: {known}")
        return self._graphs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._graphs)

    def __len__(self) -> int:
        return len(self._graphs)

    def __contains__(self, name: object) -> bool:
        return name in self._graphs

    def __repr__(self) -> str:
        return f"<{len(self)} regions: {', '.join(self)}>"

    def __str__(self) -> str:
        rows = []
        for name, graph in self._graphs.items():
            facts = self.surroundings.facts[name]
            done = _done(graph)
            rows.append((name, facts.kind, str(facts.calls), *done, facts.around or "the model"))
        header = ("region", "module", "calls", "MACs", "quantized", "part of")
        reasons = {(f.around, f.why): None for f in self.surroundings.facts.values()}
        lines = [table(header, rows, right=("calls", "MACs", "quantized")), "", "Why several:"]
        lines += [f"  {around or 'the model'}: {why}" for around, why in reasons]
        for site in self.surroundings.left:
            lines.append(f"  {site.module_path or site.node} stays float: {site.message}")
        lines += filter(None, map(_fallen, self._graphs, self._graphs.values()))
        return "\n".join(lines)


def _fallen(name: str, graph: nn.Module) -> str:
    """What was computed layer by layer, as text; "" if nothing was."""
    ways = ways_of(graph)
    if ways is None or not ways.fallen:
        return ""
    return f"  {name}: {ways.fallen} calls ran layer by layer, which no graph takes: {ways.why}"


def _done(graph: nn.Module) -> tuple[str, str]:
    """MACs of a region, and how many of them are in integers, as text."""
    if not isinstance(graph, QuantizedModel):
        return "", ""
    macs = sum(site.macs for site in graph.report.sites)
    share = "" if graph.report.coverage is None else f"{graph.report.coverage:.1%}"
    return amount(macs), share


def regions_of(model: object) -> Regions[Any] | None:
    """The regions of a model that has several, else None."""
    found = vars(model).get(ATTRIBUTE) if isinstance(model, nn.Module) else None
    return found if isinstance(found, Regions) else None


def join_ways(
    graphs: Mapping[str, Graph],
    insides: Mapping[str, nn.Module],
    forms: Mapping[str, Mapping[CallForm, int]] | None = None,
) -> None:
    """Let the graphs of each region answer its calls between them.

    Args:
        graphs: all of them by name; the first of each region gets its ways.
        insides: of regions, the module that answers where no graph does.
        forms: of regions, which graph takes calls of a form, as far as is known.
    """
    others: dict[str, list[Graph]] = {}
    for name, graph in graphs.items():
        region = region_of(name)
        if region != name:
            others.setdefault(region, []).append(graph)
    for name in dict.fromkeys((*others, *insides)):
        known = (forms or {}).get(name)
        vars(graphs[name])[WAYS] = Ways(others.get(name, ()), known, insides.get(name))


def with_regions(
    model: nn.Module,
    graphs: Mapping[nn.Module, Graph],
    named: Regions[Graph],
    tensors: Mapping[Tensor, Tensor] | None = None,
) -> nn.Module:
    """A copy of ``model`` that has ``graphs`` in the place of some of its modules.

    Args:
        model: the user's, or one that has regions already; not changed.
        graphs: what to put in the place of each.
        named: all of them by name, for ``.regions``.
        tensors: parameters that the copy has in the place of others.

    Raises:
        ConfigError: the model has attributes of the names that are ours.
    """
    taken = [name for name in _OURS if hasattr(model, name) and regions_of(model) is None]
    if taken:
        raise ConfigError(
            f"the model has {' and '.join(taken)} of its own, and a model of several regions keeps "
            "there what qfx tells of it. What to do: rename that, or put the model into another"
        )
    for module, graph in graphs.items():
        if isinstance(graph, QuantizedModel):
            graph.update_code()  # in its place, attributes that it sets are those of the module
        take_place(graph, place_of(module))
    root = deep_copied(model, graphs, tensors)
    root.__dict__[ATTRIBUTE] = named
    return root
