"""A module in the place of a module of somebody's model.

What is around it sees a module of the class that it replaces, with its attributes. Tensors and
submodules are parts of the graph now: they are those of the module ``inside``, if there is one.
That also takes over where an attribute is set, which the graph can't know.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from qfx.errors import CaptureError
from qfx.graph.ways import WAYS, ways_of
from qfx.private_attributes import buffers_held, modules_held, parameters_held

READS = "_reads"
"""Key of ``vars(module)`` where a module that is inside says how its attributes are read."""

_PLACE = "_in_place"
_TELLS_DTYPE = "_tells_dtype"
_OF_MODULES = frozenset(vars(nn.Module()))
_NOTHING = object()
_PLAIN = (bool, int, float, str, type(None))


class ReplacedModule(NamedTuple):
    """What a graph module is taken for.

    Attributes:
        kind: the class of the module that it replaces.
        attributes: those of the module, but tensors and submodules, and what holds any.
        parts: names of the others.
    """

    kind: type[nn.Module]
    attributes: Mapping[str, Any]
    parts: frozenset[str]


def place_of(module: nn.Module) -> ReplacedModule:
    """The place that ``module`` has, or that was handed on to it."""
    handed_on: ReplacedModule | None = vars(module).get(_PLACE)
    if handed_on is not None:
        return handed_on
    own = {k: v for k, v in vars(module).items() if k not in _OF_MODULES}
    parts = {k for k, v in own.items() if _holds_parts(v)}
    held = (parameters_held(module), buffers_held(module), modules_held(module))
    return ReplacedModule(
        type(module),
        {k: v for k, v in own.items() if k not in parts},
        frozenset(parts.union(*held)),
    )


def take_place(made: nn.Module, place: ReplacedModule) -> None:
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
    body |= {"__class__": property(lambda self: place.kind)}
    body |= {"__getattr__": _attribute, "__setattr__": _set_attribute}
    object.__setattr__(made, "__class__", type(own.__name__, bases, body))
    for name, value in copy.deepcopy(dict(place.attributes)).items():
        if name not in vars(made) and not hasattr(type(made), name):
            vars(made)[name] = value
    vars(made)[_PLACE] = place


def tell_dtype(made: nn.Module, weight: Tensor) -> None:
    """Let code that asks ``next(model.parameters())`` for dtype and device have an answer.

    Args:
        made: in the place of a module; gets a parameter without elements.
        weight: of the model.
    """
    empty = nn.Parameter(weight.new_empty(0), requires_grad=False)
    made.register_parameter(_TELLS_DTYPE, empty)


def is_in_place(module: nn.Module) -> bool:
    """Whether ``module`` is in the place of another."""
    return _PLACE in vars(module)


def hand_on_place(made: nn.Module, copied: nn.Module, memo: dict[int, Any] | None = None) -> None:
    """Let ``copied`` have the place of ``made``, if that has one, and its ways.

    Args:
        made: a graph module.
        copied: a copy of it.
        memo: of the deep copy that it is a part of; None shares the ways.
    """
    place = vars(made).get(_PLACE)
    if place is not None:
        take_place(copied, place)
    ways = ways_of(made)
    if ways is not None:
        vars(copied)[WAYS] = ways if memo is None else copy.deepcopy(ways, memo)


def _attribute(self: nn.Module, name: str) -> Any:
    """What the class of the replaced module defines, where the graph module has nothing."""
    try:
        return nn.Module.__getattr__(self, name)
    except AttributeError:
        place: ReplacedModule = vars(self)[_PLACE]
        if name in place.parts:
            return _part(_inside(self, place, name, "read"), name)
        return of_class(self, place.kind, name)


def _part(inside: nn.Module, name: str) -> Any:
    """A part of the module in whose place a graph is; of weights, what restores them if need be."""
    read = vars(inside).get(READS, getattr)
    return read(inside, name)


def _set_attribute(self: nn.Module, name: str, value: Any) -> None:
    """Set an attribute of the replaced module, which the graph holds as it was."""
    place: ReplacedModule = vars(self)[_PLACE]
    is_known = name in place.parts or name in place.attributes
    if (
        not is_known
        or name in parameters_held(self)
        or name in buffers_held(self)
        or _is_same(self, name, value)
    ):
        nn.Module.__setattr__(self, name, value)
        return
    setattr(_inside(self, place, name, "set"), name, value)
    ways = ways_of(self)
    assert ways is not None
    ways.outdated = name
    if name in place.attributes:
        vars(self)[name] = value


def _is_same(self: nn.Module, name: str, value: object) -> bool:
    """Whether an attribute of plain type has this value already."""
    before = vars(self).get(name, _NOTHING)
    return before is value or (
        type(before) in _PLAIN and type(before) is type(value) and before == value
    )


def _inside(self: nn.Module, place: ReplacedModule, name: str, done: str) -> nn.Module:
    """The module in whose place this is; an error where there is none."""
    ways = ways_of(self)
    if ways is not None and ways.inside is not None:
        return ways.inside
    raise CaptureError(  # no AttributeError, which hasattr() would take for an answer
        f"{name!r} of this {place.kind.__name__} is a part of a captured graph now. What to"
        f" do: give example inputs on which it is {done}, or name parts of the module as "
        "regions=, so that it stays as it is"
    )


def of_class(module: nn.Module, kind: type[nn.Module], name: str) -> Any:
    """What ``kind`` defines under ``name``, bound to ``module``; AttributeError if nothing."""
    found = inspect.getattr_static(kind, name, _NOTHING)
    if found is not _NOTHING:
        return found.__get__(module, kind) if hasattr(found, "__get__") else found
    own = inspect.getattr_static(kind, "__getattr__", None)
    if own is not None and own is not vars(nn.Module)["__getattr__"]:
        return own(module, name)
    raise AttributeError(f"{kind.__name__!r} object has no attribute {name!r}")


def _holds_parts(value: object) -> bool:
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(map(_holds_parts, value))
    if isinstance(value, dict):
        return any(map(_holds_parts, value.values()))
    return isinstance(value, (Tensor, nn.Module))
