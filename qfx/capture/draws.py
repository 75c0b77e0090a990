"""Random numbers that Python or numpy draws while a model is traced: a graph holds those it drew.

What is drawn and not used (layers that are skipped at random, in training only) does no harm. So
what draws is only written down, and where it draws evenly between two bounds, both are tried.
Draws from a generator that forward itself has seeded are the same each time.
"""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any

ENDS = (0.0, 1.0 - 2.0**-53)
"""The least and the largest number of ``random.random()``."""

_EVENLY = frozenset(("rand", "random", "random_sample", "ranf", "sample", "uniform"))
"""Functions of numpy that draw evenly between two bounds."""

Note = Callable[[FrameType, str, bool], bool]


class Draws:
    """A block in which what draws random numbers is told to ``note``.

    Args:
        note: called with the frame that draws, with what it calls, and with whether it draws evenly
            between two bounds; yields whether that counts.
        end: which of :data:`ENDS` to give to the model where any number between them may be drawn;
            None for what is drawn.

    Attributes:
        replaced: stand-ins by what they stand for.
    """

    def __init__(self, note: Note, end: float | None = None) -> None:
        self._note, self._end = note, end
        self._seeded: set[object] = set()
        self._undo = ExitStack()
        self.replaced: dict[Callable[..., Any], Callable[..., Any]] = {}

    def __enter__(self) -> Draws:
        self._seeded.clear()
        instance: Any = random.random.__self__  # type: ignore[attr-defined]
        for owner in (random.Random, random.SystemRandom):  # the other functions call these two
            self._replace(owner, "random", self._told("random", owner.random, even=True))
            self._replace(owner, "getrandbits", self._told("random", owner.getrandbits))
            self._replace(owner, "seed", self._seeding("random", owner.seed))
        for name in ("random", "getrandbits", "seed"):  # bound before
            made = getattr(instance, name)
            self.replaced[getattr(random, name)] = made
            self._replace(random, name, made)
        if "numpy.random" in sys.modules:  # which need not be installed
            self._enter_numpy(sys.modules["numpy.random"])
        return self

    def _enter_numpy(self, module: Any) -> None:
        for name in module.__all__:
            function = getattr(module, name)
            if name == "seed":
                made = self._seeding("numpy.random", function)
            elif name == "default_rng":
                made = self._told("numpy.random", function, unless_given=True)
            elif _draws(function) and name not in ("get_state", "set_state"):
                made = self._told("numpy.random", function, even=name in _EVENLY)
            else:
                continue
            self.replaced[function] = made
            self._replace(module, name, made)

    def __exit__(self, *error: object) -> None:
        self._undo.close()
        self.replaced.clear()

    def _replace(self, owner: object, name: str, made: Callable[..., object]) -> None:
        before = vars(owner).get(name)
        setattr(owner, name, made)
        if before is None:  # inherited
            self._undo.callback(delattr, owner, name)
        else:
            self._undo.callback(setattr, owner, name, before)

    def _seeding(self, library: str, function: Callable[..., object]) -> Callable[..., Any]:
        @functools.wraps(function)
        def seed(*args: object, **kwargs: object) -> Any:
            if any(value is not None for value in (*args[library == "random" :], *kwargs.values())):
                self._seeded.add(_generator(library, args))
            return function(*args, **kwargs)

        return seed

    def _told(
        self,
        library: str,
        function: Callable[..., Any],
        *,
        even: bool = False,
        unless_given: bool = False,
    ) -> Callable[..., Any]:
        @functools.wraps(function)
        def draw(*args: object, **kwargs: object) -> Any:
            drawn = function(*args, **kwargs)
            same = _generator(library, args) in self._seeded or (unless_given and (args or kwargs))
            if same or not self._note(_caller(), f"{library}.{function.__name__}()", even):
                return drawn
            if not even or self._end is None:
                return drawn
            low, high = _bounds(args, kwargs) if function.__name__ == "uniform" else (0.0, 1.0)
            return drawn * 0 + low + (high - low) * self._end

        return draw


def _draws(function: object) -> bool:
    """Whether ``function`` is a method of numpy's one global generator."""
    return type(getattr(function, "__self__", None)).__name__ == "RandomState"


def _generator(library: str, args: tuple[object, ...]) -> object:
    """The generator that a call works on: numpy has one for its functions."""
    return id(args[0]) if library == "random" else library


def _bounds(args: tuple[object, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The bounds of ``numpy.random.uniform(low=0.0, high=1.0, size=None)``."""
    given = {**dict(zip(("low", "high"), args, strict=False)), **kwargs}
    return given.get("low", 0.0), given.get("high", 1.0)


def _caller() -> FrameType:
    """The frame that draws, neither of this module nor of ``random``."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") in (__name__, "random"):
        frame = frame.f_back
    assert frame is not None
    return frame
