"""Work with a deadline: each engine is tried on a thread of its own, which is left if it hangs.

What holds Python's lock, or spins, can't be ended from within the process; it is left behind.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import torch

_Made = TypeVar("_Made")


class Overdue(Exception):  # noqa: N818 - an outcome that callers see to
    """Work took longer than it may."""


class Worker:
    """A thread that does one thing after the other. Enter it; on leaving, the thread ends."""

    def __init__(self, name: str) -> None:
        self._tasks: queue.SimpleQueue[tuple[Callable[[], Any], Job[Any]] | None]
        self._tasks = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=f"qfx-{name}", daemon=True)
        self._thread.start()

    def begin(self, work: Callable[[], _Made]) -> Job[_Made]:
        """Have ``work`` called on the thread, without gradients, when it has done what was before.

        Args:
            work: is called.

        Returns:
            What becomes of it.
        """
        job: Job[_Made] = Job()
        self._tasks.put((work, job))
        return job

    def do(self, work: Callable[[], _Made], deadline: float) -> _Made:
        """What ``work`` returns, or raises: it is begun, and waited for (:meth:`Job.result`)."""
        return self.begin(work).result(deadline)

    def close(self) -> None:
        """Let the thread end when it has nothing to do."""
        self._tasks.put(None)

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            work, job = task
            try:
                with torch.no_grad():
                    job.made = work()
            except BaseException as error:
                job.error = error
            job.done.set()


class Job(Generic[_Made]):
    """Work that was begun.

    Attributes:
        done: whether it has ended.
        made, error: what came of it then.
    """

    def __init__(self) -> None:
        self.done = threading.Event()
        self.made: _Made | None = None
        self.error: BaseException | None = None
        self._began = time.monotonic()

    def result(self, deadline: float) -> _Made:
        """What it returns, or raises.

        Args:
            deadline: seconds that it may take since it was begun.

        Raises:
            Overdue: it took longer; its worker can't be used any more.
        """
        if not self.done.wait(max(0.0, self._began + deadline - time.monotonic())):
            raise Overdue(f"took longer than {deadline:g} s")
        if self.error is not None:
            raise self.error
        return cast(_Made, self.made)
