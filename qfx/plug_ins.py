"""What other packages install for qfx to find by name: entry points of a group.

    [project.entry-points."qfx.engines"]
    acme = "acme_qfx:Acme"

An entry point loads an object of its name, or a function that makes it. What is installed is looked
up once per process, in the order of the names. A function may ask for what there is: it is told of
what comes before its own.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Generic, Protocol, TypeVar

from qfx.errors import warn


class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str:
        """What users call it."""


T = TypeVar("T", bound=Named)


@dataclass(frozen=True)
class PlugIn(Generic[T]):
    """What an entry point gave: an object, or in words what this machine lacks for it."""

    made: T | None
    lacks: str = ""


class PlugIns(Generic[T]):
    """The plug-ins of one group.

    Args:
        group: of the entry points.
        kind: what each is.
        called: the same in words, for warnings.
        absent: what a function raises where this machine lacks what it needs; all else that goes
            wrong is a warning, and leaves the plug-in out.
    """

    def __init__(
        self, group: str, kind: type[T], called: str, absent: tuple[type[Exception], ...] = ()
    ) -> None:
        self._group, self._kind, self._called, self._absent = group, kind, called, absent
        self._found: Mapping[str, PlugIn[T]] | None = None
        self._so_far = ContextVar[Mapping[str, PlugIn[T]] | None](group, default=None)

    def by_name(self, taken: Container[str]) -> Mapping[str, PlugIn[T]]:
        """All that there are, those called as one of ``taken`` aside."""
        found = self._so_far.get()  # while they are looked up
        if found is None:
            found = self._found
        if found is None:
            found = self._found = self._looked_up(taken)
        return found

    def forget(self) -> None:
        """Look anew when they are next asked for."""
        self._found = None

    def _looked_up(self, taken: Container[str]) -> Mapping[str, PlugIn[T]]:
        found: dict[str, PlugIn[T]] = {}
        before = self._so_far.set(found)
        try:
            for entry in sorted(entry_points(group=self._group), key=lambda e: (e.name, e.value)):
                origin = f"entry point {entry.name} = {entry.value} of group {self._group}"
                if entry.name in taken or entry.name in found:
                    warn(f"{origin} is ignored: the name is taken")
                    continue
                try:
                    loaded = entry.load()
                    made = loaded if isinstance(loaded, self._kind) else loaded()
                except self._absent as error:
                    found[entry.name] = PlugIn(None, str(error))
                    continue
                except Exception as error:
                    warn(f"{origin} fails to load: {type(error).__name__}: {error}")
                    continue
                if isinstance(made, self._kind) and made.name == entry.name:
                    found[entry.name] = PlugIn(made)
                else:
                    warn(f"{origin} gives {made!r}, no {self._called} called {entry.name!r}")
        finally:
            self._so_far.reset(before)
        return found
