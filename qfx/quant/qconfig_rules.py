"""The rules of a QConfigMapping as data, and which of them fit an operation.

Matching costs the depth of the module path and the number of regular expressions, not the number
of rules.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from qfx.graph.meta import Origin
from qfx.quant.object_names import ObjectKey
from qfx.quant.spec import QConfig


class Precedence(IntEnum):
    """The kinds of rules, highest precedence first."""

    ORDER = 0
    MODULE_NAME = 1
    REGEX = 2
    OBJECT_TYPE = 3
    ATTRIBUTE = 4
    GLOBAL = 5


_SETTERS = {
    Precedence.ORDER: "set_module_name_object_type_order",
    Precedence.MODULE_NAME: "set_module_name",
    Precedence.REGEX: "set_module_name_regex",
    Precedence.OBJECT_TYPE: "set_object_type",
    Precedence.ATTRIBUTE: "the qconfig attribute of module",
    Precedence.GLOBAL: "set_global",
}


@dataclass(frozen=True)
class QConfigRule:
    """One rule of a mapping; ``str`` reads as the call that set it.

    Attributes:
        kind: which setter made it.
        qconfig: what it asks for, None for float.
        module: module name, regular expression, or "" where the kind has none.
        object: the type it names, for kinds that name one.
        index: which occurrence in the module, for ORDER.
    """

    kind: Precedence
    qconfig: QConfig | None
    module: str = ""
    object: ObjectKey | None = None
    index: int = 0

    @property
    def name(self) -> str:
        """The rule without its QConfig: ``set_module_name('fc')``."""
        return f"{_SETTERS[self.kind]}({', '.join(self._keys())})"

    def __str__(self) -> str:
        return f"{_SETTERS[self.kind]}({', '.join((*self._keys(), repr(self.qconfig)))})"

    def _keys(self) -> Iterator[str]:
        if self.kind not in (Precedence.OBJECT_TYPE, Precedence.GLOBAL):
            yield repr(self.module)
        if self.object is not None:
            yield self.object.text
        if self.kind is Precedence.ORDER:
            yield str(self.index)


@dataclass(frozen=True)
class Resolution:
    """What a mapping says of one operation.

    Attributes:
        qconfig: how to quantize it, None for float.
        rule: the rule that decided; None where no rule fits.
    """

    qconfig: QConfig | None
    rule: QConfigRule | None

    @property
    def specific(self) -> bool:
        """Whether a rule other than the global one decided."""
        return self.rule is not None and self.rule.kind is not Precedence.GLOBAL


@dataclass(frozen=True)
class Resolved:
    """What a mapping says of a whole capture.

    Attributes:
        by_node: name of each captured node -> resolution.
        unmatched: rules that no operation fits, for a warning; the global rule is none of them.
    """

    by_node: Mapping[str, Resolution]
    unmatched: tuple[QConfigRule, ...]


@dataclass(frozen=True)
class Operation:
    """A captured operation as rules see it.

    Attributes:
        path: path of the module that holds it; of a leaf module, its own.
        container: path of the module it stands in.
        type_name: as in :class:`~qfx.graph.meta.Origin`.
        enclosing: type names of the modules around it, innermost first.
    """

    path: str
    container: str
    type_name: str
    enclosing: tuple[str, ...] = ()

    @classmethod
    def of(cls, origin: Origin, module_types: Mapping[str, str]) -> Operation:
        """The operation of ``origin`` in a model whose modules have the types given by path."""
        path = origin.module_path
        container = path
        if module_types.get(path) == origin.type_name and path:
            container = path.rpartition(".")[0]
        around = (module_types.get(parent) for parent in ancestors(container))
        return cls(path, container, origin.type_name, tuple(t for t in around if t))


class RuleIndex:
    """Finds the rules that fit operations; occurrences are counted in the order of the calls.

    Attributes:
        matched: rules that fitted some operation so far.
    """

    def __init__(self, rules: Iterable[QConfigRule]) -> None:
        self.matched: set[QConfigRule] = set()
        self._order: dict[str, list[QConfigRule]] = defaultdict(list)
        self._named: dict[Precedence, dict[str, QConfigRule]] = {
            Precedence.MODULE_NAME: {},
            Precedence.ATTRIBUTE: {},
        }
        self._patterns: list[tuple[re.Pattern[str], QConfigRule]] = []
        self._types: dict[str, list[QConfigRule]] = defaultdict(list)
        self._global: list[QConfigRule] = []
        self._count: Counter[QConfigRule] = Counter()
        for rule in rules:
            self._add(rule)

    def _add(self, rule: QConfigRule) -> None:
        if rule.kind is Precedence.ORDER:
            self._order[rule.module].append(rule)
        elif rule.kind in self._named:
            self._named[rule.kind][rule.module] = rule
        elif rule.kind is Precedence.REGEX:
            self._patterns.append((re.compile(rule.module), rule))
        elif rule.kind is Precedence.GLOBAL:
            self._global.append(rule)
        elif rule.object is not None:
            for name in rule.object.names:
                self._types[name].append(rule)

    def resolve(self, operation: Operation, index: int | None = None) -> Resolution:
        """The decision of the first rule that fits.

        Args:
            operation: what to decide.
            index: which occurrence it is; counted per rule when None.
        """
        fitting = [
            *self._in_order(operation, index),
            *self._by_name(Precedence.MODULE_NAME, operation),
            *(rule for pattern, rule in self._patterns if pattern.match(operation.path)),
            *self._by_type(operation),
            *self._by_name(Precedence.ATTRIBUTE, operation),
            *self._global,
        ]
        self.matched.update(fitting)
        if not fitting:
            return Resolution(None, None)
        return Resolution(fitting[0].qconfig, fitting[0])

    def _in_order(self, operation: Operation, index: int | None) -> Iterator[QConfigRule]:
        for rule in self._order.get(operation.container, ()):
            if rule.object is None or operation.type_name not in rule.object.names:
                continue
            count = self._count[rule] if index is None else index
            self._count[rule] += 1
            if count == rule.index:
                yield rule

    def _by_name(self, kind: Precedence, operation: Operation) -> Iterator[QConfigRule]:
        rules = self._named[kind]
        if rules:
            yield from (rules[path] for path in ancestors(operation.path) if path in rules)

    def _by_type(self, operation: Operation) -> Iterator[QConfigRule]:
        for name in (operation.type_name, *operation.enclosing):
            yield from sorted(self._types.get(name, ()), key=_breadth)


def ancestors(path: str) -> Iterator[str]:
    """``a.b``, ``a`` and "" for ``a.b``: a module path and the paths around it, innermost first."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def _breadth(rule: QConfigRule) -> int:
    """How many spellings a type rule covers: the narrower one goes first."""
    return 0 if rule.object is None else len(rule.object.names)
