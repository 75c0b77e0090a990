"""Functions for which ``torch.compile`` counts apart.

It counts recompilations by code object, and refuses after eight. Where the methods of many models
are one function, the ninth model that a process compiles would be refused.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, cast


def with_own_code(function: Callable[..., object]) -> Callable[..., Any]:
    """A copy of a Python function that shares no code object with it."""
    original = cast(FunctionType, function)
    own = FunctionType(
        original.__code__.replace(),
        original.__globals__,
        original.__name__,
        original.__defaults__,
        original.__closure__,
    )
    own.__kwdefaults__ = original.__kwdefaults__
    return own
