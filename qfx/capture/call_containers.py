"""What a call is given: containers of its own, as the model's own call would get them.

fx keeps lists and dicts in arguments immutable; a function that is recorded as one call may write
to those that it gets. So it runs on plain copies, and what it wrote there shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from qfx.capture.proxy import ValueProxy
from qfx.graph.modes import ModeFlag


class Copy(NamedTuple):
    """A list or dict among the arguments: the model's own, the copy given, and what was in it."""

    original: Any
    given: Any
    before: Any

    @property
    def is_changed(self) -> bool:
        """Whether the call wrote to its copy."""
        if len(self.given) != len(self.before):
            return True
        if isinstance(self.given, dict) and list(self.given) != list(self.before):
            return True
        return not all(map(_same, _items(self.given), _items(self.before)))

    @property
    def keys(self) -> list[Any]:
        """What the call left in its copy, by key or index."""
        return list(self.given) if isinstance(self.given, dict) else list(range(len(self.given)))

    def replace(self, left: dict[Any, Any]) -> None:
        """Put ``left``, by key or index, into the model's own."""
        self.original.clear()
        if isinstance(self.original, dict):
            self.original.update(left)
        else:
            self.original.extend(left.values())


class Given:
    """The arguments of one call, with examples in place of proxies.

    Attributes:
        copies: the lists and dicts among them, inner ones first.
    """

    def __init__(self) -> None:
        self.copies: list[Copy] = []

    def values(self, value: object) -> Any:
        """What the call is given for ``value``."""
        if type(value) is ValueProxy:
            return value.example
        if isinstance(value, ModeFlag):
            return False
        if isinstance(value, (list, dict)):
            return self._copied(value)
        if isinstance(value, tuple) and not isinstance(value, torch.Size):
            items = map(self.values, value)
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if isinstance(value, slice):
            ends: Any = (value.start, value.stop, value.step)
            return slice(*map(self.values, ends))
        return value

    def _copied(self, value: Any) -> Any:
        known = next((each for each in self.copies if each.original is value), None)
        if known is not None:
            return known.given
        if isinstance(value, dict):
            given: Any = {key: self.values(item) for key, item in value.items()}
        else:
            given = [self.values(item) for item in value]
        self.copies.append(Copy(value, given, given.copy()))
        return given

    def written(self) -> Iterator[Copy]:
        """The copies that the call wrote to."""
        return (each for each in self.copies if each.is_changed)


def _items(container: Any) -> list[Any]:
    return list(container.values()) if isinstance(container, dict) else container


def _same(one: object, other: object) -> bool:
    if one is other:
        return True
    return type(one) is type(other) and isinstance(one, (int, float, str)) and one == other
