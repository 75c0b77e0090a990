"""What qualified names refer to: each owner on the way is found once, however many names it has."""

from __future__ import annotations

from typing import Any

from torch import nn

from qfx.private_attributes import buffers_held, modules_held, parameters_held

_ABSENT = object()


class Lookup:
    """Looks up attributes of ``root`` by qualified name, as long as no module is replaced.

    Attributes:
        used: (id of an owner, attribute) of every step taken so far.
    """

    def __init__(self, root: object) -> None:
        self.used: set[tuple[int, str]] = set()
        self._owners: dict[str, object] = {"": root}

    def get(self, name: str) -> object:
        """What ``name`` refers to, or None."""
        path, _, last = name.rpartition(".")
        owner = self._owner(path)
        self.used.add((id(owner), last))
        return _attribute(owner, last)

    def _owner(self, path: str) -> object:
        if path not in self._owners:
            self._owners[path] = self.get(path)
        return self._owners[path]


def attribute_of(root: object, name: str) -> Any:
    """What a qualified name refers to, as ``operator.attrgetter`` finds it, but at less length.

    Raises:
        AttributeError: there is nothing of that name.
    """
    found = root
    for atom in name.split("."):
        held = _registered(found, atom)
        found = getattr(found, atom) if held is _ABSENT else held
    return found


def _attribute(owner: object, name: str) -> object:
    held = _registered(owner, name)
    return getattr(owner, name, None) if held is _ABSENT else held


def _registered(owner: object, name: str) -> object:
    """What a module holds, past ``nn.Module.__getattr__`` where that is all it takes."""
    if isinstance(owner, nn.Module):
        for registry in (buffers_held(owner), modules_held(owner), parameters_held(owner)):
            if name in registry:
                found: object = registry[name]
                return found
    return _ABSENT
