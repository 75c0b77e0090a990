"""Rests Python's cyclic garbage collector while graphs are built.

A graph is hundreds of thousands of small objects that all stay. Each time their number has grown by
a quarter the collector walks everything that the process holds, and finds nothing.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


def patiently(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """``call`` with the collector resting."""

    # A ContextDecorator would put a frame of contextlib's where warnings look for the caller's.
    @functools.wraps(call)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with collector_resting():
            return call(*args, **kwargs)

    return called


@contextmanager
def collector_resting() -> Iterator[None]:
    """Don't collect cyclic garbage meanwhile; leaves a collector that was off already off."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
