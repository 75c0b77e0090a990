"""What is known of nodes beside what they compute: origins, values, decisions, written compactly.

What repeats is written once, in tables that nodes point into by number: operations as captured,
rules, specs, decisions.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, NamedTuple, TypeVar

from torch import fx

from qfx.errors import FormatError
from qfx.graph import meta
from qfx.quant.annotation import (
    Annotation,
    Decision,
    Edge,
    annotate,
    annotation,
    is_rangeless,
    made_up_by,
    mark_making_up,
    mark_rangeless,
)
from qfx.quant.spec import QuantSpec
from qfx.storage.fields import ABSENT, Columns, Fields, Json
from qfx.storage.shapes import read_shape, write_shape
from qfx.storage.values import read_spec

K = TypeVar("K", bound=Hashable)


# -- writing -------------------------------------------------------------------------------------
@dataclass
class FactWriter:
    """Writes what is known of nodes, and gathers the tables."""

    _origins: dict[meta.Origin, int] = field(default_factory=dict)
    _rules: dict[str, int] = field(default_factory=dict)
    _specs: dict[QuantSpec, int] = field(default_factory=dict)
    _decisions: dict[Decision, int] = field(default_factory=dict)

    def write(self, node: fx.Node) -> dict[str, Json]:
        """What is known of a node; nothing is left out but what is no fact of a graph to be."""
        written: dict[str, Json] = {}
        origins: list[Json] = [self.origin(origin) for origin in meta.origins(node)]
        if origins:
            written["origins"] = origins
        if meta.rule_of(node):
            written["rule"] = self.rule(meta.rule_of(node))
        if meta.has_value(node):
            written["value"] = write_shape(meta.value_of(node))
        if meta.note_of(node):
            written["note"] = meta.note_of(node)
        if meta.is_alias(node):
            written["alias"] = True
        if meta.drew(node) is not None:
            written["drew"] = meta.drew(node)
        if meta.wrote(node):
            written["wrote"] = True
        if is_rangeless(node):
            written["rangeless"] = True
        if made_up_by(node):
            written["made_up"] = list(made_up_by(node))
        if meta.CONTIGUOUS in node.meta:
            written["contiguous"] = [bool(flag) for flag in node.meta[meta.CONTIGUOUS]]
        note = annotation(node)
        if note is not None:
            written["quantized"] = self._annotation(note)
        return written

    def _annotation(self, note: Annotation) -> Json:
        written: dict[str, Json] = {"decision": _number(self._decisions, note.decision)}
        if note.reads:
            written["reads"] = {name: self._edge(edge) for name, edge in note.reads.items()}
        if note.output is not None:
            written["output"] = self._edge(note.output)
        if note.weight is not None:
            written["weight"] = _number(self._specs, note.weight)
        if note.widened:
            written["widened"] = True
        if note.rule:
            written["rule"] = self.rule(note.rule)
        return written

    def _edge(self, edge: Edge) -> Json:
        return [edge.group, _number(self._specs, edge.spec)]

    def origin(self, origin: meta.Origin) -> int:
        """The number of an operation as captured."""
        return _number(self._origins, origin)

    def rule(self, rule: str) -> int:
        """The number of a rule."""
        return _number(self._rules, rule)

    def decision(self, decision: Decision) -> int:
        """The number of a decision."""
        return _number(self._decisions, decision)

    def tables(self) -> dict[str, Json]:
        """What the numbers stand for."""
        return {
            "origins": [[o.node, o.module_path, o.source, o.type_name] for o in self._origins],
            "rules": list(self._rules),
            "specs": [spec.to_dict() for spec in self._specs],
            "decisions": [write_decision(decision) for decision in self._decisions],
        }


def _number(table: dict[K, int], key: K) -> int:
    return table.setdefault(key, len(table))


def write_decision(decision: Decision) -> Json:
    """A decision; short where there is nothing to say."""
    said: list[Json] = [decision.quantized, decision.reason, decision.message, decision.remedy]
    while len(said) > 1 and not said[-1]:
        said.pop()
    return said


# -- reading -------------------------------------------------------------------------------------
_USUAL = Columns(origins=[], rule=int | None, value=object, quantized=dict | None)
_SELDOM = frozenset(("note", "alias", "drew", "wrote", "rangeless", "made_up", "contiguous"))
FACTS = _USUAL.names | _SELDOM
"""The keys of what is known of a node."""

_ANNOTATION = Columns(
    decision=int,
    reads=dict | None,
    output=list | None,
    weight=int | None,
    widened=False,
    rule=int | None,
)


class Facts(NamedTuple):
    """What a file says of a node; written to it by :meth:`attach`."""

    origins: tuple[meta.Origin, ...]
    rule: str
    value: tuple[meta.Value, ...]
    note: str = ""
    alias: bool = False
    drew: bool | None = None
    wrote: bool = False
    rangeless: bool = False
    made_up: tuple[float, ...] = ()
    contiguous: tuple[bool, ...] | None = None
    annotation: Annotation | None = None

    def attach(self, node: fx.Node) -> None:
        """Write it to the node."""
        if self.origins:
            meta.set_origins(node, self.origins)
        if self.rule:
            node.meta[meta.RULE] = self.rule
        if self.value:
            meta.set_value(node, self.value[0])
        if self.note:
            meta.set_note(node, self.note)
        if self.alias:
            meta.set_alias(node)
        if self.drew is not None:
            node.meta[meta.DREW] = self.drew
        if self.wrote:
            node.meta[meta.WROTE] = True
        if self.rangeless:
            mark_rangeless(node)
        if self.made_up:
            mark_making_up(node, self.made_up)
        if self.contiguous is not None:
            node.meta[meta.CONTIGUOUS] = self.contiguous
        if self.annotation is not None:
            annotate(node, self.annotation)


class Numbered:
    """The tables that nodes point into by number.

    Args:
        tables: as a file has them.
    """

    def __init__(self, tables: Fields) -> None:
        self._origins = [_origin(each, tables.place) for each in tables.items("origins")]
        self._rules = list(tables.texts("rules"))
        self._specs = [read_spec(each, f"{tables.place}.specs") for each in tables.items("specs")]
        self._decisions = [read_decision(v, tables.place) for v in tables.items("decisions")]
        tables.close()

    def origin(self, number: object, place: str) -> meta.Origin:
        """The operation of a number."""
        return _at(self._origins, number, place)

    def rule(self, number: object, place: str) -> str:
        """The rule of a number."""
        return _at(self._rules, number, place)

    def spec(self, number: object, place: str) -> QuantSpec:
        """The spec of a number."""
        return _at(self._specs, number, place)

    def decision(self, number: object, place: str) -> Decision:
        """The decision of a number."""
        return _at(self._decisions, number, place)


class FactReader(Numbered):
    """Reads what :class:`FactWriter` wrote."""

    def read(self, fields: Fields) -> Facts:
        """What is said of a node, whose other keys somebody else reads."""
        place = fields.place
        origins, rule, value, quantized = fields.some(_USUAL)
        plain = Facts(
            tuple([self.origin(n, place) for n in origins]) if origins else (),
            "" if rule is None else self.rule(rule, place),
            () if value is ABSENT else (read_shape(value, place),),
            annotation=None if quantized is None else self._annotation(fields.record("quantized")),
        )
        return plain if fields.lacks(_SELDOM) else _with_what_was_seen(plain, fields)

    def _annotation(self, fields: Fields) -> Annotation:
        decision, reads, output, weight, widened, rule = fields.columns(_ANNOTATION)
        edges = reads.items() if reads else ()
        return Annotation(
            self.decision(decision, fields.place),
            {name: self._edge(edge, fields.place) for name, edge in edges},
            None if output is None else self._edge(output, fields.place),
            None if weight is None else self.spec(weight, fields.place),
            widened,
            rule="" if rule is None else self.rule(rule, fields.place),
        )

    def _edge(self, value: object, place: str) -> Edge:
        if type(value) is not list or len(value) != 2 or type(value[0]) is not int:
            raise FormatError(f"{place} is no group and spec")
        return Edge(value[0], self.spec(value[1], place))


def _with_what_was_seen(facts: Facts, fields: Fields) -> Facts:
    """``facts`` with those that few nodes have."""
    contiguous = None
    if fields.has("contiguous"):
        flags = fields.items("contiguous")
        if not all(type(flag) is bool for flag in flags):
            fields.refuse("contiguous", "is no list of flags")
        contiguous = tuple(flags)
    return facts._replace(
        note=fields.text("note", ""),
        alias=fields.flag("alias", False),
        drew=fields.flag("drew") if fields.has("drew") else None,
        wrote=fields.flag("wrote", False),
        rangeless=fields.flag("rangeless", False),
        made_up=_made_up(fields),
        contiguous=contiguous,
    )


def _made_up(fields: Fields) -> tuple[float, ...]:
    if not fields.has("made_up"):
        return ()
    sums = fields.items("made_up")
    if not all(type(each) is float and isfinite(each) for each in sums):
        fields.refuse("made_up", "is no list of finite numbers")
    return tuple(sums)


T = TypeVar("T")


def _at(table: list[T], number: object, place: str) -> T:
    if type(number) is not int or not 0 <= number < len(table):
        raise FormatError(f"{place} points to nothing")
    return table[number]


def _origin(value: object, place: str) -> meta.Origin:
    if type(value) is not list or len(value) != 4 or not all(type(v) is str for v in value):
        raise FormatError(f"{place}.origins holds something that is no operation")
    return meta.Origin(*value)


def read_decision(value: Any, place: str) -> Decision:
    """What :func:`write_decision` wrote."""
    right = type(value) is list and 1 <= len(value) <= 4 and type(value[0]) is bool
    if not right or not all(type(v) is str for v in value[1:]):
        raise FormatError(f"{place}.decisions holds something that is no decision")
    return Decision(*value)
