"""Observers by name, so that a configuration can be written as text.

A class registered with :func:`register_observer` goes by its name in ``QuantSpec(observer=...)``
and in saved configurations. A class with options (``MinMax.with_args(...)``) is described by the
name of the class it was made from and the options.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import TypeVar

from qfx.errors import ConfigError
from qfx.quant.observers.base import Observer

_T = TypeVar("_T", bound=Observer)
_CLASSES: dict[str, type[Observer]] = {}


def register_observer(name: str) -> Callable[[type[_T]], type[_T]]:
    """Class decorator: make an observer known as ``name``.

    Raises:
        ConfigError: another class has the name.
    """

    def register(cls: type[_T]) -> type[_T]:
        known = _CLASSES.get(name)
        if known is not None and _identity(known) != _identity(cls):
            raise ConfigError(
                f"the observer name {name!r} is taken by {known.__qualname__}; choose another"
            )
        _CLASSES[name] = cls
        return cls

    return register


def observers() -> dict[str, type[Observer]]:
    """Every registered observer by name."""
    return dict(_CLASSES)


def observer_class(observer: type[Observer] | str) -> type[Observer]:
    """The class meant by ``observer``; ConfigError names close matches of an unknown name."""
    if isinstance(observer, type) and issubclass(observer, Observer):
        return observer
    if not isinstance(observer, str):
        raise ConfigError(
            f"observer must be a subclass of qfx.quant.observers.Observer or a registered name,"
            f" not {observer!r}"
        )
    if observer in _CLASSES:
        return _CLASSES[observer]
    close = difflib.get_close_matches(observer, _CLASSES, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    raise ConfigError(
        f"no observer is called {observer!r}; {hint}Registered: {', '.join(sorted(_CLASSES))}"
    )


def per_tensor_twin(cls: type[Observer]) -> type[Observer]:
    """What does per tensor what ``cls`` does per channel, with the options that both have."""
    origin, options = cls.made_from()
    twin = observer_class(origin.per_tensor)
    return twin.with_args(**{k: v for k, v in options if k in twin.options})


def name_or_class(cls: type[Observer]) -> type[Observer] | str:
    """The registered name of ``cls``, or the class itself if it has none."""
    return next((name for name, known in _CLASSES.items() if known is cls), cls)


def describe(observer: type[Observer] | str) -> str | dict[str, object]:
    """An observer in plain JSON types; ConfigError for a class that has no name."""
    cls = observer_class(observer)
    origin, options = cls.made_from()
    name = name_or_class(origin)
    if not isinstance(name, str):
        raise ConfigError(
            f"the observer {origin.__qualname__} has no name to be written down;"
            " decorate it with @qfx.quant.observers.register_observer('name')"
        )
    return {"name": name, "options": dict(options)} if options else name


def from_description(data: object) -> type[Observer] | str:
    """The observer that :func:`describe` wrote."""
    if isinstance(data, str):
        return data
    if not isinstance(data, Mapping) or set(data) != {"name", "options"}:
        raise ConfigError(f"not an observer: {data!r}")
    return observer_class(data["name"]).with_args(**data["options"])


def _identity(cls: type[Observer]) -> tuple[str, str]:
    """Module and name: the same class, also after its module was reloaded."""
    return cls.__module__, cls.__qualname__
