"""The interpreter: runs a graph node by node, each as the code of the graph would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from qfx.capture.call_containers import thawed


class Interpreter(fx.Interpreter):
    """Runs a graph; calls get lists and dicts of their own, which they may write to."""

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of ``n``, as the code of the graph gives them."""
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return thawed(args), thawed(kwargs)


class NamedInterpreter(Interpreter):
    """Runs a graph on arguments by name."""

    def __init__(self, graph_module: fx.GraphModule, arguments: Mapping[str, Any]) -> None:
        super().__init__(graph_module)
        self.extra_traceback = False
        self._arguments = arguments

    def placeholder(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The argument of that name, which may have been given by keyword."""
        return self._arguments[str(target).lstrip("*")]
