"""Whether the options of a pass are what their annotations say.

Kinds that are checked: bool, int, float (which takes ints), str, None, enums and other classes,
tuples, lists and dicts of them, literals, and unions. Anything else is taken as it is.
"""

from __future__ import annotations

import dataclasses
import types
import typing
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from qfx.errors import ConfigError

_hints: weakref.WeakKeyDictionary[type, Mapping[str, object]] = weakref.WeakKeyDictionary()
"""The types of options, by class: they are costly to read, and every pipeline asks."""


def check_options(step: Any) -> None:
    """Raise if an option of a pass is of another type than it declares.

    Raises:
        ConfigError: it names the pass, the option, its type and the value.
    """
    hints = hints_of(type(step))
    for field in dataclasses.fields(step):
        hint, value = hints.get(field.name, Any), getattr(step, field.name)
        if not fits(value, hint):
            raise ConfigError(
                f"pass {step.name or type(step).__name__}: the option {field.name} is "
                f"{text_of(hint)}, not {value!r}{_instead(value, hint)}",
                pass_name=step.name or None,
            )


def _instead(value: object, hint: object) -> str:
    """What to write, where it is clear."""
    tuples = (tuple(value) if isinstance(value, list) else (value,)), (value,)
    meant = next((each for each in tuples if fits(each, hint)), None)
    return "" if meant is None else f"; write {meant!r}"


def hints_of(kind: type) -> Mapping[str, object]:
    """The types of options; none where annotations name what only a function knows."""
    if kind not in _hints:
        try:
            _hints[kind] = typing.get_type_hints(kind)
        except NameError:
            _hints[kind] = {}
    return _hints[kind]


def fits(value: object, hint: object) -> bool:
    """Whether ``value`` is of the type that an annotation says."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is None or hint is type(None):
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is typing.Literal:
        return any(value is each or (type(value) is type(each) and value == each) for each in inner)
    if origin is tuple:
        return isinstance(value, tuple) and _tuple_fits(value, inner)
    if origin is list:
        return isinstance(value, list) and _all_fit(value, inner[0])
    if origin is dict:
        pairs = value.items() if isinstance(value, dict) else None
        return pairs is not None and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in pairs)
    if not isinstance(hint, type) or origin is not None:
        return True
    if isinstance(value, bool) and hint in (int, float):
        return False
    return isinstance(value, (int, float) if hint is float else hint)


def text_of(hint: object) -> str:
    """A type as it is written."""
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _all_fit(values: Iterable[object], hint: object) -> bool:
    return all(fits(value, hint) for value in values)


def _tuple_fits(value: tuple[object, ...], inner: tuple[object, ...]) -> bool:
    if len(inner) == 2 and inner[1] is Ellipsis:
        return _all_fit(value, inner[0])
    return len(value) == len(inner) and all(map(fits, value, inner))
