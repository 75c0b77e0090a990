"""A thread that computes ahead of who asks, while Python goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import torch
from typing_extensions import Self

T = TypeVar("T")


class ThreadBeside:
    """One thread, which takes what it is given in that order.

    It is left with ``with``: what nobody waits for by then is not computed.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        # Who asks for the number of threads has OpenMP use as many as were set for the process.
        self._pool = ThreadPoolExecutor(1, name, initializer=torch.get_num_threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, make: Callable[[], T]) -> Future[T] | None:
        """Have the thread compute something; None where no thread can be started."""
        try:
            return self._pool.submit(make)
        except RuntimeError:  # of the system, or of Python that is about to end
            return None
