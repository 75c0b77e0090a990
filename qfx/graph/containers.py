"""Containers that a model returns, in the types that it returns them in.

A graph holds tuples, lists and dicts of exactly these types; an ``OrderedDict``, a ``defaultdict``
or a class of the user's own is made by a call, as namedtuples and dataclasses are.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import fx

_SIZE = torch.Size  # which has a stand-in of that name while a model is traced


@dataclass(frozen=True)
class ContainerMaker:
    """Makes an instance of a subclass of tuple, list or dict without calling its constructor.

    Constructors of subclasses take what they like; what an instance *is* are its elements and
    attributes, and those are known.

    Args:
        kind: the class.
        factory: of a ``defaultdict``.
    """

    kind: type
    factory: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "__name__", self.kind.__name__)
        object.__setattr__(self, "__qualname__", self.kind.__qualname__)

    def __call__(self, elements: Any, attributes: dict[str, Any]) -> Any:
        """An instance with ``elements``: a list of them, or of pairs for a dict."""
        if self.kind is _SIZE or hasattr(self.kind, "n_sequence_fields"):  # and return_types
            return self.kind(elements)
        if issubclass(self.kind, tuple):
            made: Any = tuple.__new__(self.kind, elements)
        elif issubclass(self.kind, list):
            made = list.__new__(self.kind)
            list.extend(made, elements)
        else:
            made = self._dict(elements)
        if attributes:
            vars(made).update(attributes)
        return made

    def _dict(self, pairs: list[tuple[Any, Any]]) -> Any:
        base: Any = next(b for b in self.kind.__mro__ if b in _DICTS)
        made = base.__new__(self.kind)
        if base is defaultdict:
            made.default_factory = self.factory
        for key, value in pairs:
            base.__setitem__(made, key, value)
        return made


_DICTS: tuple[Any, ...] = (OrderedDict, defaultdict, dict)


def is_record(value: object) -> bool:
    """Whether ``value`` has named fields, by which its class makes it: namedtuples, dataclasses."""
    return is_dataclass(value) or (isinstance(value, tuple) and hasattr(value, "_fields"))


def is_numpy_scalar(value: object) -> bool:
    """Whether ``value`` is a number of numpy, as ``np.sqrt(64)`` is; it need not be installed."""
    return any((t.__module__, t.__name__) == ("numpy", "generic") for t in type(value).__mro__)


def is_special(value: object) -> bool:
    """Whether ``value`` is a container of a type that a graph does not hold as it is."""
    kind = type(value)
    if not isinstance(value, (tuple, list, dict)) or kind in (tuple, list, dict):
        return False
    return kind.__module__ != fx.immutable_collections.__name__


def parts(value: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """What to call with what to make ``value``, a special container."""
    if type(value) is OrderedDict:
        return OrderedDict, (list(value.items()),)
    elements = list(value.items()) if isinstance(value, dict) else list(value)
    factory = value.default_factory if isinstance(value, defaultdict) else None
    attributes = dict(vars(value)) if hasattr(value, "__dict__") else {}
    return ContainerMaker(type(value), factory), (elements, attributes)


def makes_container(node: fx.Node) -> bool:
    """Whether ``node`` only puts together what others computed."""
    return node.op == "call_function" and isinstance(node.target, (ContainerMaker, type))


def is_size(value: object) -> bool:
    """Whether pytree is to leave ``value`` whole: it makes a plain tuple of a ``torch.Size``."""
    return isinstance(value, torch.Size)
