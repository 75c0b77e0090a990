"""Which operation is quantized how: rules by name and type, the first in order of precedence.

    set_module_name_object_type_order > set_module_name > set_module_name_regex > set_object_type
    > a module's own ``qconfig`` attribute, or its class's > set_global

A module name covers what is inside the module, too; the nearest named module decides. Of regular
expressions (``re.match`` on the path) the first set decides. A type also covers what is inside
modules of that type. ``None`` leaves float. The rules are data, and resolving is a function of them
and of the captured operations.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping

from torch import nn

from qfx.errors import ConfigError, warn
from qfx.graph.meta import Origin
from qfx.graph.source import type_name
from qfx.quant.object_names import ObjectKey
from qfx.quant.qconfig_rules import (
    Operation,
    Precedence,
    QConfigRule,
    Resolution,
    Resolved,
    RuleIndex,
)
from qfx.quant.spec import Json, QConfig, QuantSpec

__all__ = [
    "Precedence",
    "QConfig",
    "QConfigMapping",
    "QConfigRule",
    "QuantSpec",
    "Resolution",
    "Resolved",
    "module_types",
]


_ABSENT = object()


class QConfigMapping:
    """Rules that say which operation is quantized how; see the module for their precedence.

    The setters return the mapping, so that calls can be chained. Setting the same key again
    replaces the rule. Operations that no rule fits stay float.
    """

    def __init__(self) -> None:
        self._rules: dict[tuple[object, ...], QConfigRule] = {}

    def set_global(self, qconfig: QConfig | None) -> QConfigMapping:
        """For everything that no other rule fits."""
        return self._set(QConfigRule(Precedence.GLOBAL, qconfig))

    def set_object_type(self, object_type: object, qconfig: QConfig | None) -> QConfigMapping:
        """For a module type, a function, a method (by name), or an operation of the vocabulary.

        A type or function fits exactly what was written; ``vocab.LINEAR`` fits every spelling.
        """
        return self._set(
            QConfigRule(Precedence.OBJECT_TYPE, qconfig, object=ObjectKey.of(object_type))
        )

    def set_module_name_regex(
        self, module_name_regex: str, qconfig: QConfig | None
    ) -> QConfigMapping:
        """For modules whose path matches from its start; of several such rules the first set."""
        _check_text("module_name_regex", module_name_regex)
        try:
            re.compile(module_name_regex)
        except re.error as error:
            raise ConfigError(f"{module_name_regex!r} is no regular expression: {error}") from error
        return self._set(QConfigRule(Precedence.REGEX, qconfig, module_name_regex))

    def set_module_name(self, module_name: str, qconfig: QConfig | None) -> QConfigMapping:
        """For a module and what is inside it; a rule for a module further inside goes first."""
        _check_text("module_name", module_name)
        return self._set(QConfigRule(Precedence.MODULE_NAME, qconfig, module_name))

    def set_module_name_object_type_order(
        self, module_name: str, object_type: object, index: int, qconfig: QConfig | None
    ) -> QConfigMapping:
        """For the ``index``-th occurrence (from 0) of a type directly inside a module."""
        _check_text("module_name", module_name)
        if not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise ConfigError(f"index counts occurrences from 0; {index!r} is no such number")
        key = ObjectKey.of(object_type)
        return self._set(QConfigRule(Precedence.ORDER, qconfig, module_name, key, index))

    def with_attributes_of(
        self, model: nn.Module, warn: Callable[[str], None] = warn
    ) -> QConfigMapping:
        """A copy that also heeds the ``qconfig`` attributes of the modules of ``model``.

        Args:
            model: its modules, or their classes, may have the attribute.
            warn: told of an attribute that is neither a ``qfx.QConfig`` nor None: it is ignored.
        """
        extended = self.copy()
        for path, module in model.named_modules():
            if inspect.getattr_static(module, "qconfig", _ABSENT) is _ABSENT:
                continue
            qconfig = module.qconfig
            if qconfig is None or isinstance(qconfig, QConfig):
                extended._set(QConfigRule(Precedence.ATTRIBUTE, qconfig, path))
                continue
            warn(
                f"module {path or 'root'!r} has a qconfig attribute of type"
                f" {type(qconfig).__name__}, which is ignored: set a qfx.QConfig or None"
            )
        return extended

    @property
    def rules(self) -> tuple[QConfigRule, ...]:
        """All rules, highest precedence first, then in the order they were set."""
        return tuple(sorted(self._rules.values(), key=lambda rule: rule.kind))

    def copy(self) -> QConfigMapping:
        """An independent mapping with the same rules."""
        duplicate = QConfigMapping()
        duplicate._rules = dict(self._rules)
        return duplicate

    def resolve(
        self,
        module_path: str,
        type_name: str,
        *,
        index: int | None = None,
        container: str | None = None,
        enclosing: Iterable[str] = (),
    ) -> Resolution:
        """What the rules say of one operation on its own.

        Args:
            module_path: path of the module that holds it; of a leaf module, its own.
            type_name: as in :class:`~qfx.graph.meta.Origin`.
            index: which occurrence of its type it is in its container; the first when None.
            container: path of the module it stands in; ``module_path`` when None.
            enclosing: type names of the modules around it, innermost first.
        """
        where = module_path if container is None else container
        operation = Operation(module_path, where, type_name, tuple(enclosing))
        return RuleIndex(self.rules).resolve(operation, index)

    def resolve_all(self, origins: Iterable[Origin], module_types: Mapping[str, str]) -> Resolved:
        """What the rules say of every operation of a capture.

        Args:
            origins: one per captured node, in graph order.
            module_types: type names of the modules of the model; see :func:`module_types`.
        """
        matcher = RuleIndex(self.rules)
        by_node = {o.node: matcher.resolve(Operation.of(o, module_types)) for o in origins}
        unmatched = (r for r in self.rules if r not in matcher.matched)
        return Resolved(by_node, tuple(r for r in unmatched if r.kind is not Precedence.GLOBAL))

    def to_dict(self) -> dict[str, Json]:
        """Plain JSON types, in order of precedence; types are written by name."""
        return {"rules": [_to_dict(r) for r in self.rules if r.kind is not Precedence.ATTRIBUTE]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Json]) -> QConfigMapping:
        """The mapping that :meth:`to_dict` wrote; ConfigError if it is none."""
        rules = data.get("rules")
        if set(data) != {"rules"} or not isinstance(rules, list):
            raise ConfigError(f"not a QConfigMapping: {dict(data)}")
        mapping = cls()
        for entry in rules:
            _add_from_dict(mapping, entry)
        return mapping

    def _set(self, rule: QConfigRule) -> QConfigMapping:
        if rule.qconfig is not None and not isinstance(rule.qconfig, QConfig):
            hint = " (wrap it: QConfig(activation=..., weight=...))"
            raise ConfigError(
                f"{rule.name} takes a qfx.QConfig, or None for float, not {rule.qconfig!r}"
                + (hint if isinstance(rule.qconfig, QuantSpec) else "")
            )
        text = "" if rule.object is None else rule.object.text
        self._rules[(rule.kind, rule.module, text, rule.index)] = rule
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QConfigMapping):
            return NotImplemented
        return self.rules == other.rules

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        calls = "".join(
            f"\n    .{rule}" for rule in self.rules if rule.kind is not Precedence.ATTRIBUTE
        )
        own = "".join(f"\n    # {r}" for r in self.rules if r.kind is Precedence.ATTRIBUTE)
        return f"QConfigMapping(){calls}{own}"


def module_types(model: nn.Module) -> dict[str, str]:
    """The type name of every module of ``model``, by path; a shared module under all its paths."""
    named = model.named_modules(remove_duplicate=False)
    return {path: type_name(type(module)) for path, module in named}


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be text such as 'layer1.0.conv1', not {value!r}")


def _to_dict(rule: QConfigRule) -> dict[str, Json]:
    entry: dict[str, Json] = {"kind": rule.kind.name.lower()}
    if rule.kind not in (Precedence.OBJECT_TYPE, Precedence.GLOBAL):
        entry["module"] = rule.module
    if rule.object is not None:
        entry["object"] = rule.object.text
    if rule.kind is Precedence.ORDER:
        entry["index"] = rule.index
    entry["qconfig"] = None if rule.qconfig is None else rule.qconfig.to_dict()
    return entry


def _add_from_dict(mapping: QConfigMapping, entry: object) -> None:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"not a rule: {entry!r}")
    written = entry.get("qconfig")
    qconfig = QConfig.from_dict(written) if isinstance(written, Mapping) else None
    module, named, kind = entry.get("module", ""), entry.get("object"), entry.get("kind")
    if kind == "global":
        mapping.set_global(qconfig)
    elif kind == "object_type":
        mapping.set_object_type(named, qconfig)
    elif kind == "regex":
        mapping.set_module_name_regex(module, qconfig)
    elif kind == "module_name":
        mapping.set_module_name(module, qconfig)
    elif kind == "order":
        index = entry.get("index")
        mapping.set_module_name_object_type_order(module, named, index, qconfig)  # type: ignore[arg-type]
    else:
        raise ConfigError(f"not a rule: {dict(entry)}")
