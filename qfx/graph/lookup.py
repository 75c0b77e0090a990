"""What qualified names refer to: each owner on the way is found once, however many names it has."""

from __future__ import annotations

from typing import Any

from torch import nn

from qfx.private_attributes import held_by

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
        if path not in self._owners:
            self._owners[path] = self.get(path)
        owner = self._owners[path]
        self.used.add((id(owner), last))
        return _attribute(owner, last)


def attribute_of(root: object, name: str) -> Any:
    """What a qualified name refers to, as ``operator.attrgetter`` finds it, but at less length.

    Raises:
        AttributeError: there is nothing of that name.
    """
    found = root
    for atom in name.split("."):
        # Past nn.Module.__getattr__ where that is all it takes.
        held = held_by(found, atom, _ABSENT) if isinstance(found, nn.Module) else _ABSENT
        found = getattr(found, atom) if held is _ABSENT else held
    return found


def _attribute(owner: object, name: str) -> object:
    held = held_by(owner, name, _ABSENT) if isinstance(owner, nn.Module) else _ABSENT
    return getattr(owner, name, None) if held is _ABSENT else held
