"""The interpreter: runs a graph node by node, each as the code of the graph would."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx
from torch.fx.immutable_collections import immutable_dict, immutable_list

from qfx.graph.modes import ModeFlag


class Interpreter(fx.Interpreter):
    """Runs a graph; calls get lists and dicts of their own, which they may write to."""

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of ``n``, as the code of the graph gives them."""
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return thawed(args), thawed(kwargs)


class NamedInterpreter(Interpreter):
    """Runs a graph on arguments by name.

    Args:
        graph_module: whose graph to run.
        arguments: the inputs.
        drops: whether values go once nothing reads them any more.
    """

    def __init__(
        self, graph_module: fx.GraphModule, arguments: Mapping[str, object], *, drops: bool = True
    ) -> None:
        super().__init__(graph_module, garbage_collect_values=drops)
        self.extra_traceback = False
        self._arguments = arguments

    def placeholder(self, target: object, args: tuple[object, ...], kwargs: dict[str, Any]) -> Any:
        """The argument of that name, which may have been given by keyword."""
        return self._arguments[str(target).lstrip("*")]


def result_of(node: fx.Node, args: Sequence[object], kwargs: Mapping[str, object]) -> Any:
    """What ``node``, a call of a function or a method, yields for these arguments."""
    kwargs = {name: thawed(value) for name, value in kwargs.items()}
    return called_by(node)(*thawed(tuple(args)), **kwargs)


def called_by(node: fx.Node) -> Callable[..., Any]:
    """What a call of a function or a method runs: a method as a function of its receiver."""
    if not isinstance(node.target, str):
        return node.target
    name = node.target
    return lambda receiver, *args, **kwargs: getattr(receiver, name)(*args, **kwargs)


def thawed(value: object) -> Any:
    """``value``, an argument of a node, as code gives it: plain lists, dicts and training flags."""
    if isinstance(value, ModeFlag):
        return False
    if isinstance(value, immutable_list):
        return [thawed(item) for item in value]
    if isinstance(value, immutable_dict):
        return {key: thawed(item) for key, item in value.items()}
    if type(value) is tuple:
        return tuple(map(thawed, value))
    return value
