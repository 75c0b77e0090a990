"""Checksums of the large tensors of a file, computed on a thread beside.

zlib does not hold Python's lock: while it reads the bytes, Python reads what the file says of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial

from qfx.graph.thread_beside import ThreadBeside
from qfx.storage.container import Container

_LARGE = 65_536
"""Bytes from which on a tensor is worth handing to a thread."""


class Checksums(ThreadBeside):
    """Computes checksums ahead of who asks for them."""

    def __init__(self) -> None:
        super().__init__("qfx-checksums")
        self._ahead: dict[str, Future[int]] = {}

    def start(self, container: Container, names: Iterable[str]) -> None:
        """Begin with the tensors of ``names``, in the order in which they lie in the file."""
        entries = {name: container.entries[name] for name in names if name in container.entries}
        large = [name for name, entry in entries.items() if entry.end - entry.begin >= _LARGE]
        for name in sorted(large, key=lambda name: entries[name].begin):
            begun = self.begin(partial(container.checksum, name))
            if begun is None:
                return  # each when it is asked for
            self._ahead[name] = begun

    def of(self, container: Container, name: str) -> int:
        """The checksum of a tensor."""
        ahead = self._ahead.get(name)
        if ahead is None or ahead.cancelled():  # by who left
            return container.checksum(name)
        return ahead.result()
