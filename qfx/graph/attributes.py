"""Parameters, buffers and submodules of a graph module, by qualified name.

Two paths may lead to one module (shared layers), so what is unused is decided per owner *object*
and attribute, not per path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import Tensor, fx, nn

from qfx.errors import PatternError
from qfx.graph.lookup import Lookup, attribute_of
from qfx.graph.unread_modules import take_away
from qfx.private_attributes import (
    buffers_held,
    held_by,
    modules_held,
    parameters_held,
    unsaved_buffers,
)

_MISSING = object()


class Attributes:
    """Reads and registers what nodes refer to, never overwriting anything."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self._root = graph_module
        self._next_suffix: dict[str, int] = {}

    def get(self, name: str) -> object:
        """What the qualified ``name`` refers to; PatternError if nothing."""
        try:
            return attribute_of(self._root, name)
        except AttributeError as error:
            raise PatternError(f"the model has no attribute {name!r}: {error}") from None

    def add_tensor(self, hint: str, tensor: Tensor, *, trainable: bool) -> str:
        """Register a parameter (``trainable``) or buffer; returns its qualified name."""
        owner, prefix, name = self._free(hint)
        if trainable:
            owner.register_parameter(name, nn.Parameter(tensor.detach()))
        else:
            owner.register_buffer(name, tensor.detach())
        return prefix + name

    def add(self, hint: str, value: object) -> str:
        """Register anything; returns its qualified name."""
        if isinstance(value, Tensor):
            return self.add_tensor(hint, value, trainable=isinstance(value, nn.Parameter))
        owner, prefix, name = self._free(hint)
        setattr(owner, name, value)
        return prefix + name

    def add_opaque(self, hint: str, value: object) -> str:
        """Register a value that is no parameter of the model; returns its qualified name."""
        owner, prefix, name = self._free(hint)
        if isinstance(value, Tensor):
            register_tensor(owner, name, value, persistent=False)
        else:
            setattr(owner, name, value)
        return prefix + name

    def add_module(self, hint: str, module: nn.Module) -> str:
        """Register a submodule; returns its qualified name."""
        owner, prefix, name = self._free(hint)
        owner.add_module(name, module)
        return prefix + name

    def rename(self, name: str, wanted: str) -> str:
        """Register what ``name`` refers to at the root, too; returns its name there.

        That is ``wanted``, with underscores behind it where it is taken. It is the same object, and
        is part of ``state_dict`` if it was.
        """
        path, _, last = name.rpartition(".")
        owner = attribute_of(self._root, path) if path else self._root
        value = attribute_of(owner, last)
        while is_taken(self._root, wanted):
            wanted += "_"
        if isinstance(value, Tensor):
            persistent = last not in unsaved_buffers(owner)
            register_tensor(self._root, wanted, value, persistent=persistent)
        else:
            setattr(self._root, wanted, value)
        return wanted

    def drop_orphans(self) -> None:
        """Delete every parameter, buffer and submodule that no node uses.

        What is left of a layer nobody calls any more (:mod:`qfx.graph.unread_modules`).
        """
        for owner, name in list(orphans(self._root)):
            if owner is self._root:
                delattr(owner, name)
            else:
                take_away(owner, name)

    def _free(self, hint: str) -> tuple[nn.Module, str, str]:
        """The owner, "owner.path." and an attribute name like ``hint`` that is not taken."""
        *path, last = [_identifier(atom) for atom in hint.split(".")]
        owner: nn.Module = self._root
        for depth, atom in enumerate(path):
            child = None if _is_free(owner, atom) else getattr(owner, atom)
            if child is None:
                child = nn.Module()
                owner.add_module(atom, child)
            if not isinstance(child, nn.Module):
                return self._free("_".join([*path[: depth + 1], *path[depth + 1 :], last]))
            owner = child
        prefix = "".join(f"{atom}." for atom in path)
        name = last
        suffix = self._next_suffix.get(prefix + last, 1)
        while not _is_free(owner, name):
            name, suffix = f"{last}_{suffix}", suffix + 1
        self._next_suffix[prefix + last] = suffix
        if _has(owner, name):
            delattr(owner, name)
        return owner, prefix, name


def register_tensor(owner: nn.Module, name: str, value: Tensor, *, persistent: bool = True) -> None:
    """Register a tensor under a name that is free; ``register_buffer`` asks at length if it is."""
    if type(value) is not Tensor and isinstance(value, nn.Parameter):  # which asks at length
        parameters_held(owner)[name] = value
        return
    buffers_held(owner)[name] = value
    if not persistent:
        unsaved_buffers(owner).add(name)


def is_taken(owner: nn.Module, name: str) -> bool:
    """``hasattr(owner, name)``, without the error that modules raise to say no, at length."""
    kind = type(owner)
    plain = kind.__getattr__ is nn.Module.__getattr__
    return _has(owner, name) or hasattr(kind, name) or (not plain and hasattr(owner, name))


def _has(owner: nn.Module, name: str) -> bool:
    """Whether a module has an attribute of its own; one in the place of another has more."""
    return name in owner.__dict__ or held_by(owner, name, _MISSING) is not _MISSING


def _is_free(owner: nn.Module, name: str) -> bool:
    """Whether a module has nothing of that name, or None for a tensor that it lacks."""
    return getattr(owner, name) is None if _has(owner, name) else not is_taken(owner, name)


def _identifier(atom: str) -> str:
    """``atom`` as the name of an attribute: "0" stays, as in ``features.0``."""
    return re.sub(r"\W", "_", atom) or "_"


def orphans(graph_module: fx.GraphModule) -> Iterator[tuple[nn.Module, str]]:
    """Each (owner, attribute) of a parameter, buffer or submodule that no node uses.

    A submodule is in use when a node calls it, or uses something inside it. What lies inside a
    module that is called is that module's own affair.
    """
    lookup = Lookup(graph_module)
    nodes = (n for n in graph_module.graph.nodes if n.op in ("get_attr", "call_module"))
    targets = [lookup.get(name) for name in dict.fromkeys(str(n.target) for n in nodes)]
    called = {id(target) for target in targets if isinstance(target, nn.Module)}
    yield from _unused(graph_module, called, lookup.used, set())


def _unused(
    module: nn.Module, called: set[int], used: set[tuple[int, str]], visited: set[int]
) -> Iterator[tuple[nn.Module, str]]:
    if id(module) in visited or id(module) in called:
        return
    visited.add(id(module))
    for name, held in (*parameters_held(module).items(), *buffers_held(module).items()):
        if held is not None and (id(module), name) not in used:
            yield module, name
    for name, child in modules_held(module).items():
        if (id(module), name) not in used:
            yield module, name
        elif child is not None:
            yield from _unused(child, called, used, visited)
