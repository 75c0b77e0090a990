"""Names that code sees differently while it is traced."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch

from qfx.graph.effects import random_functions
from qfx.graph.proxy import is_instance

_OPAQUE = ("torch", "qfx", "qfx_passes", "builtins")


class SeenThrough:
    """While entered, ``isinstance`` of the packages shown to it sees through proxies.

    It is put among the globals of their modules, as ``torch.fx.wrap`` does, and taken away again.
    """

    def __init__(self) -> None:
        self._packages: set[str] = set()
        self._changed: list[dict[str, Any]] = []

    def __enter__(self) -> SeenThrough:
        return self

    def show(self, kind: type) -> None:
        """Let the package that defines ``kind`` see through proxies."""
        package = kind.__module__.partition(".")[0]
        if package in self._packages or package in _OPAQUE:
            return
        self._packages.add(package)
        for name, module in list(sys.modules.items()):
            if name == package or name.startswith(f"{package}."):
                self._change(vars(module))

    def _change(self, names: dict[str, Any]) -> None:
        if "isinstance" not in names:
            names["isinstance"] = is_instance
            self._changed.append(names)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for names in self._changed:
            del names["isinstance"]
        self._changed.clear()
        self._packages.clear()


@contextmanager
def draws_recorded(record: Callable[..., Any]) -> Iterator[None]:
    """Functions of torch that draw random numbers go to ``record(function, args, kwargs)``.

    fx records a call for the proxies that it is given; ``torch.rand(3)`` is given none.
    """
    originals = {name: getattr(torch, name) for name in random_functions()}

    def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return record(function, args, kwargs)

        return call

    try:
        for name, function in originals.items():
            setattr(torch, name, recorded(function))
        yield
    finally:
        for name, function in originals.items():
            setattr(torch, name, function)
