"""Checksums of the large tensors of a file, computed on a thread beside.

zlib does not hold Python's lock: while it reads the bytes, Python reads what the file says of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType

from typing_extensions import Self

from qfx.storage.container import Container

_LARGE = 65_536
"""Bytes from which on a tensor is worth handing to a thread."""


class Checksums:
    """Computes checksums ahead of who asks for them; it is left with ``with``."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "qfx-checksums")
        self._ahead: dict[str, Future[int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._ahead.clear()

    def start(self, container: Container, names: Iterable[str]) -> None:
        """Begin with the tensors of ``names``, in the order in which they lie in the file."""
        entries = {name: container.entries[name] for name in names if name in container.entries}
        large = [name for name, entry in entries.items() if entry.end - entry.begin >= _LARGE]
        with suppress(RuntimeError):  # no thread can be started: each when it is asked for
            for name in sorted(large, key=lambda name: entries[name].begin):
                self._ahead[name] = self._pool.submit(container.checksum, name)

    def of(self, container: Container, name: str) -> int:
        """The checksum of a tensor."""
        ahead = self._ahead.get(name)
        return container.checksum(name) if ahead is None else ahead.result()
