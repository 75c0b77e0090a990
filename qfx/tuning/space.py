"""What a search chooses between: for every site 8 bits, 4 bits for its weight, or float.

A site is addressed as rules of a QConfigMapping address it, so that a choice is a mapping, and what
comes out can be had again by a plain ``qfx.quantize`` with it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import fx, nn

from qfx.backends.base import Backend
from qfx.backends.fitting import settled_weight, unfit
from qfx.graph import meta
from qfx.history.labels import label
from qfx.quant.annotation import annotation
from qfx.quant.qconfig import QConfig, QConfigMapping, module_types
from qfx.quant.qconfig_rules import Operation
from qfx.quant.spec import QuantSpec
from qfx.runtime.prepared import PreparedModel
from qfx.vocab import Kind, OpDef, bound

_COUNTED = (Kind.MATMUL, Kind.ARITHMETIC, Kind.LOOKUP)
"""Kinds of operations that are left float by choice; others go with what is around them."""


@dataclass(frozen=True)
class Address:
    """How rules name an operation.

    Attributes:
        module: the module that it is, or stands in.
        kind: what was written, where it is no module by itself; "" where it is.
        index: which of that kind it is in the module.
    """

    module: str
    kind: str = ""
    index: int = 0

    def __str__(self) -> str:
        return f"{self.module}:{self.kind}:{self.index}" if self.kind else self.module

    def set(self, mapping: QConfigMapping, qconfig: QConfig | None) -> None:
        """Add a rule for it."""
        if not self.kind:
            mapping.set_module_name(self.module, qconfig)
            return
        mapping.set_module_name_object_type_order(self.module, self.kind, self.index, qconfig)


@dataclass
class Place:
    """A site, or several with one address.

    Attributes:
        address: how rules name it.
        label: as the report has it.
        calls: its nodes, and the prepared graphs that they are in.
        elements: of its weights.
        narrow: how its weight is quantized in 4 bits; None where that is no choice.
    """

    address: Address
    label: str
    calls: list[tuple[PreparedModel, fx.Node]] = field(default_factory=list)
    elements: int = 0
    narrow: QuantSpec | None = None

    @property
    def key(self) -> str:
        """Its address as text."""
        return str(self.address)


@dataclass(frozen=True)
class Plan:
    """A choice for every site.

    Attributes:
        effort: of quantizing.
        per_site: whether each site gets the observer that errs least there.
        floats, int4: keys of the places that are float, and of those with weights of 4 bits.
    """

    effort: str = "default"
    per_site: bool = False
    floats: frozenset[str] = frozenset()
    int4: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """The same text for the same plan, in any process."""
        parts = (self.effort, self.per_site, sorted(self.floats), sorted(self.int4))
        return json.dumps(parts, separators=(",", ":"))


def narrowed(qconfig: QConfig, method: str) -> QConfig:
    """``qconfig`` with weights of 4 bits.

    A range per channel is searched; where activations stay float, 32 values share a scale.
    """
    weight = QuantSpec(
        torch.int8,
        symmetric=True,
        per_channel=True,
        group_size=32 if method == "weight_only" else None,
        observer="per_channel_mse",
        quant_min=-8,
        quant_max=7,
    )
    return replace(qconfig, weight=weight)


def mapping_of(
    plan: Plan, places: Sequence[Place], qconfig: QConfig, method: str, observers: Mapping[str, str]
) -> QConfigMapping:
    """The rules that make a plan.

    Args:
        plan: what to make.
        places: all sites.
        qconfig: what every operation gets by default.
        method: of quantizing.
        observers: by key of a place, the observer that errs least there.
    """
    mapping = QConfigMapping().set_global(qconfig)
    for place in places:
        made = None if place.key in plan.floats else qconfig
        if made is not None and place.key in plan.int4:
            made = narrowed(made, method)
        name = observers.get(place.key, "") if plan.per_site else ""
        if made is not None and made.activation is not None and name:
            made = replace(made, activation=replace(made.activation, observer=name))
        if made != qconfig:
            place.address.set(mapping, made)
    return mapping


def places_of(
    graphs: Sequence[PreparedModel], model: nn.Module, backend: Backend, narrow: QConfig
) -> list[Place]:
    """What is quantized of a model, in graph order.

    Args:
        graphs: prepared as everything is by default.
        model: the user's.
        backend: the target, which tells where it takes 4 bits.
        narrow: the QConfig of these.
    """
    types = module_types(model)
    places: dict[Address, Place] = {}
    for graph in graphs:
        for address, node in _sites(graph, types):
            origin = meta.origins(node)[0]
            place = places.setdefault(
                address, Place(address, label(origin.node, origin.module_path))
            )
            place.calls.append((graph, node))
            if len(place.calls) == 1:
                place.elements = sum(graph_weight(graph, w).numel() for w in weights_of(node))
                place.narrow = _narrow_weight(node, backend, narrow)
    return list(places.values())


def _narrow_weight(node: fx.Node, backend: Backend, narrow: QConfig) -> QuantSpec | None:
    """How the weight of a node is quantized by ``narrow``; None if it can't be, or is rows."""
    note = annotation(node)
    if not isinstance(node.target, OpDef) or note is None or note.weight is None:
        return None
    row = backend.rule(node.target, note.method)
    if row is None or row.weight is None or narrow.weight is None:
        return None
    if node.target.kind is Kind.LOOKUP or unfit(node, narrow, row, backend) is not None:
        return None
    return settled_weight(narrow.weight, row.weight)


def _sites(graph: PreparedModel, types: Mapping[str, str]) -> Iterator[tuple[Address, fx.Node]]:
    """The nodes that are quantized, and may be left float, with how rules name them."""
    addresses = _addresses(graph, types)
    for node in graph.graph.nodes:
        note, sources = annotation(node), meta.origins(node)
        if note is None or not note.decision.quantized or not sources:
            continue
        counts = isinstance(node.target, OpDef) and node.target.kind in _COUNTED
        if (counts or note.weight is not None) and sources[0].node in addresses:
            yield addresses[sources[0].node], node


def _addresses(graph: PreparedModel, types: Mapping[str, str]) -> dict[str, Address]:
    """How rules name each captured operation; occurrences are counted as rules count them."""
    captured, seen = graph.settings.captured, Counter[tuple[str, str]]()
    assert captured is not None  # it was captured just now
    found: dict[str, Address] = {}
    for node in captured.graph.nodes:
        for origin in meta.origins(node):
            operation = Operation.of(origin, types)
            kind = operation.container, operation.type_name
            if operation.container != operation.path:
                found[origin.node] = Address(operation.path)
            else:
                found[origin.node] = Address(*kind, seen[kind])
            seen[kind] += 1
    return found


def weights_of(node: fx.Node) -> list[fx.Node]:
    """The constant weights that a node reads."""
    arguments = bound(node) if isinstance(node.target, OpDef) else {}
    found = (arguments.get("weight"), *arguments.get("weights", ()))
    return [w for w in found if isinstance(w, fx.Node) and w.op == "get_attr"]


def graph_weight(graph: PreparedModel, weight: fx.Node) -> torch.Tensor:
    """The tensor that a node of a prepared graph stands for."""
    owner, _, name = str(weight.target).rpartition(".")
    found: torch.Tensor = getattr(graph.get_submodule(owner), name)
    return found
