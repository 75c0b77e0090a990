"""How a file names what a node calls: by words of closed tables.

==========================  ====================================================================
``"conv2d"``                an operation of the vocabulary (:mod:`qfx.vocab`)
``"torch.cumsum"``          a function of :mod:`qfx.storage.functions`
``{"make": "OrderedDict"}`` a container of :data:`CONTAINERS`, or a class that the caller of
                            ``qfx.load`` hands in (``types=``), by its qualified name
==========================  ====================================================================
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.nn.utils.rnn import PackedSequence

from qfx import vocab
from qfx.errors import ConfigError, FormatError
from qfx.graph import meta
from qfx.graph.containers import ContainerMaker
from qfx.storage.fields import Fields, Json
from qfx.storage.functions import ATTRIBUTES, METHODS, function_names, functions
from qfx.vocab import OpDef

CONTAINERS: dict[str, type] = {
    "OrderedDict": OrderedDict,
    "defaultdict": defaultdict,
    "dict": dict,
    "list": list,
    "tuple": tuple,
    "Size": torch.Size,
    "PackedSequence": PackedSequence,
    **{
        f"return_types.{name}": kind
        for name, kind in sorted(vars(torch.return_types).items())
        if isinstance(kind, type) and issubclass(kind, tuple)
    },
}
"""The types that a file may make instances of by itself."""

FACTORIES: dict[str, Callable[[], Any]] = {"list": list, "dict": dict, "int": int, "float": float}
"""What a ``defaultdict`` may be told to make."""

_NAMES = {kind: name for name, kind in CONTAINERS.items()}
_FACTORY_NAMES = {factory: name for name, factory in FACTORIES.items()}


def type_name(kind: type) -> str:
    """What a file calls a class of the user's."""
    return f"{kind.__module__}.{kind.__qualname__}"


# -- writing -------------------------------------------------------------------------------------
def write_target(node: fx.Node) -> Json:
    """What a file calls the function or method that ``node`` calls.

    Raises:
        FormatError: it has no name there.
    """
    target: Any = node.target
    if isinstance(target, OpDef) and vocab.has(target.name):
        return target.name
    if isinstance(target, ContainerMaker):
        return _write_maker(node, target.kind, target.factory, elements=True)
    if isinstance(target, type) and target not in function_names():
        return _write_maker(node, target, None, elements=False)
    if node.op == "call_method" and target in METHODS:
        return str(target)
    name = function_names().get(target) if callable(target) else None
    if name is None or (name == "python.getattr" and not _asks_known(node.args)):
        raise _unknown(node)
    return name


def _write_maker(node: fx.Node, kind: type, factory: object, *, elements: bool) -> Json:
    made: dict[str, Json] = {"make": _NAMES.get(kind) or type_name(kind)}
    if elements:
        made["elements"] = True
    if factory is not None:
        if factory not in _FACTORY_NAMES:
            raise FormatError(
                f"{meta.where(node)} makes a defaultdict of {factory!r}, and a file can name only "
                f"{', '.join(FACTORIES)}. Return a plain dict"
            )
        made["factory"] = _FACTORY_NAMES[factory]
    return made


def _asks_known(args: tuple[Any, ...]) -> bool:
    return len(args) == 2 and isinstance(args[1], str) and args[1] in ATTRIBUTES


def _unknown(node: fx.Node) -> FormatError:
    origins = meta.origins(node)
    written = origins[0].type_name if origins else str(node.target)
    return FormatError(
        f"{meta.where(node)} calls {written}, which a file can't name: files name the operations "
        "of docs/ops.md and the functions of docs/format.md, so that loading one runs no other "
        "code. Write it with these, or keep the float model and quantize it again"
    )


# -- reading -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Types:
    """The classes that the caller of ``qfx.load`` hands in, by qualified name."""

    given: Mapping[str, type]

    @classmethod
    def of(cls, types: Iterable[type]) -> Types:
        kinds = list(types) if isinstance(types, Iterable) and not isinstance(types, type) else None
        if kinds is None or not all(isinstance(kind, type) for kind in kinds):
            raise ConfigError(f"types is {types!r}; give a list of classes: types=[TheClass]")
        return cls({type_name(kind): kind for kind in kinds})

    def find(self, name: str, place: str) -> type:
        """A class by the name that a file has for it."""
        kind = CONTAINERS.get(name) or self.given.get(name)
        if kind is None:
            raise FormatError(
                f"{place}: the model hands out {name[:200]}, and files bring no code. Import that "
                "class and give it: qfx.load(path, types=[TheClass])"
            )
        return kind


def read_function(value: object, types: Types, place: str) -> Callable[..., Any]:
    """What a file calls by a name."""
    if isinstance(value, dict):
        return _read_maker(Fields(value, place), types)
    if not isinstance(value, str):
        raise FormatError(f"{place} names no operation")
    if vocab.has(value):
        return vocab.lookup(value)
    function = functions().get(value)
    if function is None:
        raise FormatError(
            f"{place} calls {value[:80]!r}, which is no operation of this version of qfx and "
            f"PyTorch {torch.__version__}"
        )
    return function


def _read_maker(fields: Fields, types: Types) -> Callable[..., Any]:
    kind = types.find(fields.text("make"), fields.place)
    elements = fields.flag("elements", False)
    factory = fields.choice("factory", FACTORIES) if fields.has("factory") else None
    fields.any("factory")
    fields.close()
    if not elements:
        return kind
    if not issubclass(kind, (tuple, list, dict)):
        raise FormatError(f"{fields.place}: {kind.__name__} is no container")
    return ContainerMaker(kind, None if factory is None else FACTORIES[factory])


def read_method(value: object, place: str) -> str:
    """A method that a file may call."""
    if not isinstance(value, str) or value not in METHODS:
        raise FormatError(f"{place} calls a method {str(value)[:80]!r}, which no file may")
    return value


def check_call(function: Callable[..., Any], args: tuple[Any, ...], place: str) -> None:
    """FormatError for a question that a file may not ask."""
    if function is getattr and not _asks_known(args):
        raise FormatError(f"{place} asks for an attribute that no file may ask for")
