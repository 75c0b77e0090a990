"""Installed passes, by name: entry points of the group ``qfx.passes``.

An entry point loads a pass class, or a tuple of them. qfx's own passes register the same way; from
a source checkout that was never installed they are imported directly. Nothing is kept between
calls: what is installed is what the interpreter's metadata says now.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from enum import Enum
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeGuard, get_args

from qfx.errors import ConfigError, QfxWarning
from qfx.framework import pass_text
from qfx.framework.levels import Level
from qfx.framework.option_types import hints_of
from qfx.framework.pass_base import Pass, as_pass
from qfx.framework.pipeline import CALIBRATE, Pipeline

GROUP = "qfx.passes"


def list_passes() -> tuple[str, ...]:
    """Names of all installed passes, sorted."""
    return tuple(sorted(_installed()))


def get_pass(name: str) -> type[Pass]:
    """The class of an installed pass; call it with options to make a pass.

    Raises:
        ConfigError: no such pass; the message suggests names.
    """
    found = _installed()
    if name in found:
        return found[name]
    _explain_entry(name)
    near = get_close_matches(name, found, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are: {', '.join(sorted(found))}"
    raise ConfigError(f"no pass called {name!r} is installed; {hint}")


def is_builtin(name: str) -> bool:
    """Whether ``name`` is that of one of qfx's own passes."""
    return any(kind.name == name for kind in import_module("qfx_passes").BUILTIN)


def builtin_pass(name: str) -> type[Pass]:
    """The class of one of qfx's own passes; nothing that others installed is looked at.

    Raises:
        ConfigError: no such pass.
    """
    for kind in import_module("qfx_passes").BUILTIN:
        if kind.name == name:
            found: type[Pass] = kind
            return found
    raise ConfigError(f"qfx has no pass called {name!r}")


def parse_pass(text: str, find: Callable[[str], type[Pass]] = get_pass) -> Pass:
    """The pass that prints as ``text``: ``place-observers{fake_quant=true}``.

    Args:
        text: name and options.
        find: the class of a pass, by name.

    Raises:
        ConfigError: the text is malformed, or names an unknown pass or option.
    """
    name, options = pass_text.split(text)
    kind = find(name)
    hints = hints_of(kind) if options else {}
    known = tuple(inspect.signature(kind).parameters)
    unknown = [option for option in options if option not in known]
    if unknown:
        has = ", ".join(known) or "none"
        message = f"pass {name} has no option {unknown[0]!r}; its options are: {has}"
        raise ConfigError(message, pass_name=name)
    values: dict[str, Any] = {
        option: pass_text.parse_value(node, _enums(hints.get(option)))
        for option, node in options.items()
    }
    return as_pass(kind(**values)) if values else as_pass(kind)


def parse_pipeline(
    text: str,
    find: Callable[[str], type[Pass]] = get_pass,
    *,
    start: Level = Level.CAPTURED,
) -> Pipeline:
    """The pipeline that prints as ``text``: its steps, separated by commas or line ends.

    ``calibrate`` is the marker where data runs through the model. What is read equals what was
    printed, and fits any backend and method: the call that it is given to brings the passes of its
    backend that the text does not have.

    Args:
        text: the text of each pass, as :func:`parse_pass` reads it.
        find: the class of a pass, by name.
        start: the level of the graph that it starts from; that of a half, ``half.start``.

    Raises:
        ConfigError: a pass can't be read, or their order can't work.
    """
    steps = pass_text.steps(text)
    read = (CALIBRATE if each == CALIBRATE.name else parse_pass(each, find) for each in steps)
    return Pipeline(tuple(read), start=start)


def _enums(hint: object) -> tuple[type[Enum], ...]:
    """The enums in a type annotation."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return (hint,)
    return tuple(enum for part in get_args(hint) for enum in _enums(part))


def _installed() -> dict[str, type[Pass]]:
    """All installed passes; qfx's own come first, and no other takes their names."""
    found: dict[str, type[Pass]] = {}
    for kind, origin in _all():
        if kind.name in found and found[kind.name] is not kind:
            _warn(f"pass {kind.name!r} of {origin} is ignored: the name is taken")
        found.setdefault(kind.name, kind)
    return found


def _all() -> Iterator[tuple[type[Pass], str]]:
    for kind in import_module("qfx_passes").BUILTIN:
        yield kind, "qfx_passes"
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        yield from _load(entry)


def _load(entry: EntryPoint) -> Iterator[tuple[type[Pass], str]]:
    """The passes of one entry point; one that fails to load is a warning, not everybody's error."""
    origin = f"entry point {entry.name} = {entry.value}"
    try:
        loaded = entry.load()
    except Exception as error:
        _warn(f"{origin} of group {GROUP} fails to load: {type(error).__name__}: {error}")
        return
    for kind in _kinds(loaded):
        if _is_pass(kind):
            yield kind, origin
        else:
            _warn(f"{origin} of group {GROUP} is no pass: {kind!r}")


def _explain_entry(name: str) -> None:
    """ConfigError where an entry point is called so, and no pass that it yields is."""
    for entry in (e for e in entry_points(group=GROUP) if e.name == name):
        shown = f"entry point {entry.name} = {entry.value}"
        try:
            names = ", ".join(repr(kind.name) for kind in _kinds(entry.load()) if _is_pass(kind))
        except Exception as error:
            raise ConfigError(
                f"pass {name!r} is installed, and can't be used: {shown} of group {GROUP} fails to "
                f"load: {type(error).__name__}: {error}",
                pass_name=name,
            ) from error
        if names:
            raise ConfigError(
                f"no pass is called {name!r}: {shown} of group {GROUP} yields {names}. A pass goes "
                "by the name of its class"
            )


def _kinds(loaded: object) -> tuple[object, ...]:
    return tuple(loaded) if isinstance(loaded, (tuple, list)) else (loaded,)


def _is_pass(kind: object) -> TypeGuard[type[Pass]]:
    return isinstance(kind, type) and issubclass(kind, Pass) and bool(kind.name)


def _warn(message: str) -> None:
    warnings.warn(message, QfxWarning, stacklevel=2)
