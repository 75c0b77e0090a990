"""Backends of other packages, by name: entry points of the group ``qfx.backends``.

    [project.entry-points."qfx.backends"]
    acme = "acme_qfx:backend"

An entry point loads a :class:`~qfx.backends.base.Backend` of its name, or a function that makes it;
one whose machine is another raises :class:`qfx.BackendError`, and is not available then. What is
installed is looked up once per process, by name in alphabetical order. A function that makes a
backend may ask for others: it is told of those before it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points

from qfx.backends.base import Backend
from qfx.errors import BackendError, QfxWarning

GROUP = "qfx.backends"


@dataclass(frozen=True)
class Installed:
    """What an entry point gave: a backend, or in words what is lacking."""

    backend: Backend | None
    lacks: str = ""


_so_far: ContextVar[Mapping[str, Installed] | None] = ContextVar("_so_far", default=None)
"""What was found by now, while :func:`installed` is at it."""


def at_hand(taken: tuple[str, ...]) -> Mapping[str, Installed]:
    """What other packages installed; while that is looked up, what was found by now."""
    found = _so_far.get()
    return installed(taken) if found is None else found


@cache
def installed(taken: tuple[str, ...]) -> dict[str, Installed]:
    """What other packages installed, by name, those of ``taken`` aside."""
    found: dict[str, Installed] = {}
    before = _so_far.set(found)
    try:
        _look_up(taken, found)
    finally:
        _so_far.reset(before)
    return found


def _look_up(taken: tuple[str, ...], found: dict[str, Installed]) -> None:
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        origin = f"entry point {entry.name} = {entry.value} of group {GROUP}"
        if entry.name in taken or entry.name in found:
            _warn(f"{origin} is ignored: the name is taken")
            continue
        try:
            loaded = entry.load()
            backend = loaded if isinstance(loaded, Backend) else loaded()
        except BackendError as error:
            found[entry.name] = Installed(None, str(error))
            continue
        except Exception as error:
            _warn(f"{origin} fails to load: {type(error).__name__}: {error}")
            continue
        if isinstance(backend, Backend) and backend.name == entry.name:
            found[entry.name] = Installed(backend)
        else:
            _warn(f"{origin} gives {backend!r}, no qfx.Backend called {entry.name!r}")


def _warn(message: str) -> None:
    warnings.warn(message, QfxWarning, stacklevel=2)
