"""What a model sets or fills while it is traced: steps of Python that a graph takes once.

Tensors that forward writes to in place stay so in the graph. Of an attribute that forward *sets*,
the graph goes on with what it was then. What it puts into a list or dict among its arguments, the
graph puts there in the end.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from qfx.capture.proxy import ValueProxy
from qfx.graph import meta
from qfx.graph.state import keeps_its_buffers
from qfx.graph.working import WorkingGraphModule
from qfx.private_attributes import OF_TENSORS, buffers_held, parameters_held, unsaved_buffers
from qfx.torch_private import pytree


@dataclass(frozen=True)
class Filled:
    """A list or dict among the arguments.

    Attributes:
        name: of the argument, or its element.
        container: what forward was given.
        before: what was in it.
        proxy: what stands for it in the graph.
    """

    name: str
    container: Any
    before: Any
    proxy: ValueProxy

    @property
    def where(self) -> str:
        """Its name, and where what is new in it was computed."""
        return self.name + _whence(_content(self.before), _content(self.container))

    def steps(self) -> Iterator[tuple[Callable[..., Any], tuple[Any, ...]]]:
        """The calls, and their arguments, that make it what it is now of what it was before."""
        before, now = self.before, self.container
        items: list[tuple[Any, Any]]
        if isinstance(now, dict):
            yield from ((operator.delitem, (key,)) for key in before if key not in now)
            items = [(k, v) for k, v in now.items() if k not in before or not _is(before[k], v)]
        elif len(before) == len(now):
            items = [(i, v) for i, v in enumerate(now) if not _is(before[i], v)]
        else:
            same = [_is(one, other) for one, other in zip(before, now, strict=False)]
            kept = same.index(False) if False in same else len(same)
            items = [(slice(kept, None), now[kept:])]
        yield from ((operator.setitem, item) for item in items)


class Assignments:
    """Finds attributes that are set, and lists and dicts that are filled, while a model runs."""

    def __init__(self) -> None:
        self._before: dict[nn.Module, tuple[str, dict[str, tuple[Any, list[Any]]]]] = {}
        self._kept_whole: set[nn.Module] = set()
        self._given: list[Filled] = []

    def watch(self, module: nn.Module, path: str) -> None:
        """Remember what the attributes of ``module``, whose forward is entered, are by now."""
        if isinstance(module, WorkingGraphModule):
            module.update_code()  # which its first call would do, and that is no step of forward
        if module not in self._before:
            held = {n: (v, _content(v)) for n, v in self._attributes(module).items()}
            self._before[module] = path, held

    def watch_whole(self, module: nn.Module, path: str) -> None:
        """Remember what ``module``, which no graph looks into, holds besides tensors by now.

        Its parameters and buffers are kept apart by those who run graphs.
        """
        for inner, part in module.named_modules():
            if not (isinstance(part, torch.jit.ScriptModule) or keeps_its_buffers(part)):
                self._kept_whole.add(part)
                self.watch(part, ".".join(filter(None, (path, inner))))

    def watch_argument(
        self, name: str, container: list[Any] | dict[Any, Any], proxy: ValueProxy
    ) -> None:
        """Remember what is in a list or dict that forward is about to be given for ``proxy``."""
        self._given.append(Filled(name, container, copy.copy(container), proxy))

    def filled(self) -> list[Filled]:
        """The lists and dicts among the arguments that hold something else now."""
        return [f for f in self._given if not _is_same(_content(f.before), _content(f.container))]

    def found(self) -> Iterator[str]:
        """The qualified names of those that are new, or something else than before."""
        for module, (path, before) in self._before.items():
            now = self._attributes(module)
            for name, (value, content) in before.items():
                if _example(now.get(name)) is not value or not _is_same(content, _content(value)):
                    yield f"{path}.{name}" if path else name
            for name in now:
                if name not in before and not _is_made_by_tracing(module, name):
                    yield f"{path}.{name}" if path else name

    def _attributes(self, module: nn.Module) -> dict[str, Any]:
        own = {name: value for name, value in vars(module).items() if name not in _REGISTRIES}
        if module in self._kept_whole:
            return own
        return {**own, **buffers_held(module), **parameters_held(module)}


def _is_made_by_tracing(module: nn.Module, name: str) -> bool:
    """Whether a new attribute is a constant of the graph, or what is computed at most once."""
    is_computed_once = isinstance(getattr(type(module), name, None), cached_property)
    return is_computed_once or name.startswith(MADE_ONCE)


def _whence(before: list[Any], now: list[Any]) -> str:
    """Where what is new in a container was computed, in brackets, as far as nodes tell."""
    old = {id(value) for value in before}
    nodes = [v.node for v in now if isinstance(v, ValueProxy) and id(v) not in old]
    lines = dict.fromkeys(o.source for node in nodes for o in meta.origins(node) if o.source)
    return f" (computed at {', '.join(lines)})" if lines else ""


def _example(value: object) -> object:
    """What a proxy stands for: after ``self.n += 1``, the very buffer that was written to."""
    return value.example if isinstance(value, ValueProxy) else value


MADE_ONCE = "_tensor_constant"
"""How fx begins the names of tensors that the model makes in every call, and a trace once."""

_REGISTRIES = frozenset(vars(nn.Module()))


def _content(value: object) -> list[Any]:
    """What is in a list, set or dict; nothing in anything else."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, (list, set)) else []


def _is_same(before: list[Any], now: list[Any]) -> bool:
    return len(before) == len(now) and all(
        _is(one, other) for one, other in zip(before, now, strict=True)
    )


def _is(one: object, other: object) -> bool:
    return _example(one) is _example(other)


def kept_tensors(model: nn.Module) -> Iterator[str]:
    """Qualified names of what may be left from an earlier call: tensors that are no parameters.

    Plain attributes, lists and dicts of them, and buffers that are not saved.
    """
    for path, module in model.named_modules():
        plain = {n: v for n, v in vars(module).items() if n not in OF_TENSORS}
        names = [name for name, value in plain.items() if _holds_tensor(value)]
        for name in (*names, *sorted(unsaved_buffers(module) & buffers_held(module).keys())):
            yield f"{path}.{name}" if path else name


def _holds_tensor(value: object) -> bool:
    if isinstance(value, (list, tuple, dict)):
        return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))
    return isinstance(value, Tensor)
