"""Sets that are only ever joined: union-find with path compression."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class DisjointSets(Generic[T]):
    """Sets of items, each known by one of them, its root."""

    def __init__(self) -> None:
        self._parent: dict[T, T] = {}

    def __contains__(self, item: T) -> bool:
        return item in self._parent

    def add(self, item: T) -> None:
        """Put ``item``, which is new, in a set of its own."""
        self._parent[item] = item

    def root(self, item: T) -> T:
        """The item by which the set of ``item`` is known."""
        root = item
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[item] != root:
            self._parent[item], item = root, self._parent[item]
        return root

    def join(self, item: T, other: T) -> T | None:
        """Make one set of two, whose root is that of ``other``.

        Returns:
            The root that is none any more; None if the two were one set already.
        """
        mine, theirs = self.root(item), self.root(other)
        if mine == theirs:
            return None
        self._parent[mine] = theirs
        return mine
