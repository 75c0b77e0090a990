"""A module in the place of a module of somebody's model.

What is around it sees a module of the class that it replaces, with its attributes but for tensors
and submodules, which are parts of the graph now.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

_PLACE = "_in_place"
_OF_MODULES = frozenset(vars(nn.Module()))


class Place(NamedTuple):
    """What a graph module is taken for.

    Attributes:
        kind: the class of the module that it replaces.
        attributes: those of the module, but tensors and submodules.
    """

    kind: type[nn.Module]
    attributes: Mapping[str, Any]


def place_of(module: nn.Module) -> Place:
    """The place that ``module`` has, or that was handed on to it."""
    handed_on: Place | None = vars(module).get(_PLACE)
    if handed_on is not None:
        return handed_on
    found = vars(module).items()
    own = {k: v for k, v in found if k not in _OF_MODULES and not isinstance(v, Tensor)}
    return Place(type(module), own)


def take_place(made: nn.Module, place: Place) -> None:
    """Let ``made`` be taken for the module that had this place.

    fx gives each graph module a class of its own, of which this makes another; of other modules it
    makes a class that inherits from theirs.
    """
    own = type(made)
    bases: tuple[type, ...] = (own,)
    body: dict[str, Any] = {}
    if isinstance(made, fx.GraphModule):
        hidden = ("__dict__", "__weakref__")
        body, bases = {k: v for k, v in vars(own).items() if k not in hidden}, own.__bases__
    body |= {"__class__": property(lambda self: place.kind), "__getattr__": _attribute}
    object.__setattr__(made, "__class__", type(own.__name__, bases, body))
    for name, value in place.attributes.items():
        if name not in vars(made) and not hasattr(type(made), name):
            vars(made)[name] = value
    vars(made)[_PLACE] = place


def hand_on_place(made: nn.Module, copied: nn.Module) -> None:
    """Let ``copied`` have the place of ``made``, if that has one."""
    place = vars(made).get(_PLACE)
    if place is not None:
        take_place(copied, place)


def _attribute(self: nn.Module, name: str) -> Any:
    """What the class of the replaced module defines, where the graph module has nothing."""
    try:
        return nn.Module.__getattr__(self, name)
    except AttributeError:
        kind = vars(self)[_PLACE].kind
        found = inspect.getattr_static(kind, name, None)
        if found is None:
            raise AttributeError(
                f"{name!r} of this {kind.__name__} is a part of a captured graph now, or was never "
                "there; where code around it needs it, name parts of the module as regions="
            ) from None
        return found.__get__(self, kind) if hasattr(found, "__get__") else found
