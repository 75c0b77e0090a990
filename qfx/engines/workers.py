"""Work with a deadline: each engine is tried on a thread of its own, which is left if it hangs.

What holds Python's lock, or spins, can't be ended from within the process; it is left behind.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Made = TypeVar("_Made")


class Overdue(Exception):  # noqa: N818 - an outcome that callers see to
    """Work took longer than it may."""


class Worker:
    """A thread that does one thing after the other. Enter it; on leaving, the thread ends."""

    def __init__(self, name: str) -> None:
        self._tasks: queue.SimpleQueue[tuple[Callable[[], Any], _Job] | None]
        self._tasks = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=f"qfx-{name}", daemon=True)
        self._thread.start()

    def do(self, work: Callable[[], _Made], deadline: float) -> _Made:
        """What ``work`` returns, or raises.

        Args:
            work: is called on the thread, without gradients.
            deadline: seconds that it may take.

        Raises:
            Overdue: it took longer; the worker can't be used any more.
        """
        outcome = _Job()
        self._tasks.put((work, outcome))
        if not outcome.done.wait(deadline):
            raise Overdue(f"took longer than {deadline:g} s")
        if outcome.error is not None:
            raise outcome.error
        made: _Made = outcome.made
        return made

    def close(self) -> None:
        """Let the thread end when it has nothing to do."""
        self._tasks.put(None)

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            work, outcome = task
            try:
                with torch.no_grad():
                    outcome.made = work()
            except BaseException as error:
                outcome.error = error
            outcome.done.set()


class _Job:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.made: Any = None
        self.error: BaseException | None = None
