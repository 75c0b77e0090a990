"""What qualified names refer to: each owner on the way is found once, however many names it has."""

from __future__ import annotations

from torch import nn

from qfx.private_attributes import buffers_held, modules_held, parameters_held


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


def _attribute(owner: object, name: str) -> object:
    """As getattr, but past ``nn.Module.__getattr__`` where that is all it takes."""
    if isinstance(owner, nn.Module):
        for registry in (modules_held(owner), parameters_held(owner), buffers_held(owner)):
            if name in registry:
                return registry[name]
    return getattr(owner, name, None)
