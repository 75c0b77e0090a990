"""Functions compiled by TorchScript: called as they are, since there is no Python left to trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Scripted:
    """A compiled function, under the name that a graph calls it by.

    Args:
        function: what ``torch.jit.script`` or ``torch.jit.trace`` made.
    """

    function: torch.jit.ScriptFunction[Any, Any]

    def __post_init__(self) -> None:
        for attribute in ("__name__", "__qualname__"):
            object.__setattr__(self, attribute, self.function.name)

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self.function(*args, **kwargs)


@contextmanager
def scripts_recorded(record: Callable[..., object]) -> Iterator[None]:
    """Calls of compiled functions go to ``record(function, args, kwargs)``, unless that is None."""
    kind: Any = torch.jit.ScriptFunction
    original = kind.__call__

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        made = record(Scripted(function), args, kwargs)
        return original(function, *args, **kwargs) if made is None else made

    kind.__call__ = call
    try:
        yield
    finally:
        kind.__call__ = original
