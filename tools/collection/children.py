"""Run a function on each of many things, each in a process of its own with limits.

What one does to its process (a crash, a loop without an end, all memory) ends nothing else.
Processes are forked from a server that has the libraries loaded already.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

_BEGUN = "begun"
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Limits:
    """What a process may take.

    Attributes:
        seconds: wall-clock time, from when it has begun.
        memory: address space, in GiB.
        begin: seconds until it has begun; the server of the first one loads libraries.
    """

    seconds: float = 900.0
    memory: float = 12.0
    begin: float = 600.0


@dataclass(frozen=True)
class Lost:
    """Stands for the result of a process that gave none: why, in a line."""

    why: str


@dataclass
class _Child(Generic[T]):
    thing: T
    process: BaseProcess
    pipe: Connection
    deadline: float
    begun: bool = False


def run_each(
    function: Callable[[T], R],
    things: Sequence[T],
    *,
    workers: int = 1,
    limits: Limits = Limits(),
    preload: Sequence[str] = (),
) -> Iterator[tuple[T, R | Lost]]:
    """Yield each thing with its result, in the order in which they end.

    Args:
        function: of a module, so that another process finds it.
        things: that can be pickled.
        workers: how many processes at a time.
        limits: of each.
        preload: modules that the server loads once.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    _serve()
    waiting, running = deque(things), dict[Connection, _Child[T]]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                child = _start(context, function, waiting.popleft(), limits)
                running[child.pipe] = child
            for child in _ended(running, limits):
                del running[child.pipe]
                yield child.thing, _result(child, limits)
    finally:
        for child in running.values():
            child.process.kill()


def _serve() -> None:
    """Start the server with our path: Python before 3.13 loads nothing that only we can find."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        os.environ.update({} if before is None else {"PYTHONPATH": before})


def _start(
    context: multiprocessing.context.ForkServerContext,
    function: Callable[[T], R],
    thing: T,
    limits: Limits,
) -> _Child[T]:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, function, thing, limits), daemon=True)
    process.start()
    theirs.close()  # so that ours ends when the process does
    return _Child(thing, process, ours, time.monotonic() + limits.begin)


def _work(pipe: Connection, function: Callable[[T], R], thing: T, limits: Limits) -> None:
    most = int(limits.memory * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    pipe.send(_BEGUN)
    pipe.send(function(thing))


def _ended(running: dict[Connection, _Child[T]], limits: Limits) -> Iterator[_Child[T]]:
    """Wait until a process says something, ends, or is late; yield those that are through."""
    patience = min(child.deadline for child in running.values()) - time.monotonic()
    ready = set(wait(list(running), timeout=max(0.0, patience)))
    for child in list(running.values()):
        if child.pipe in ready and not child.begun:
            child.begun = _has_begun(child.pipe)
            child.deadline = time.monotonic() + limits.seconds
        elif child.pipe in ready or child.deadline <= time.monotonic():
            yield child


def _has_begun(pipe: Connection) -> bool:
    """Take the first message; False when the process ended before it."""
    try:
        return bool(pipe.recv() == _BEGUN)
    except EOFError:
        return False


def _result(child: _Child[T], limits: Limits) -> R | Lost:
    try:
        if child.pipe.poll():
            found: R = child.pipe.recv()
            return found
        return Lost(f"took over {limits.seconds if child.begun else limits.begin:g} s")
    except EOFError:
        child.process.join()
        return Lost(f"its process ended with status {child.process.exitcode}")
    finally:
        child.process.kill()
        child.process.join()
        child.pipe.close()
