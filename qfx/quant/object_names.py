"""Operations as users name them in configurations, and the names that capture gives them.

A key is a module type, a function, a Tensor method (``torch.Tensor.add`` or "add"), an operation
of the vocabulary, or the text of one of these. It covers type names as in
:class:`~qfx.graph.meta.Origin`: a type or function what is written exactly so, an operation every
spelling of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from qfx import vocab
from qfx.errors import ConfigError
from qfx.graph.source import qualified_name, type_name
from qfx.vocab import OpDef

_OP_PREFIX = "vocab."


@dataclass(frozen=True)
class ObjectKey:
    """What a user named, as text, and the type names that it covers."""

    text: str
    names: frozenset[str]

    @classmethod
    def of(cls, named: object) -> ObjectKey:
        """The key for a type, function, method, operation, or the text of a key.

        Raises:
            ConfigError: ``named`` is nothing that can be called in a model.
        """
        if isinstance(named, OpDef):
            return cls(_OP_PREFIX + named.name, spellings(named))
        if isinstance(named, str):
            return cls._of_text(named)
        if isinstance(named, type) and issubclass(named, nn.Module):
            return cls._single(type_name(named))
        if isinstance(named, type) or not callable(named):
            raise ConfigError(
                f"{named!r} is no operation: name a module type such as nn.Linear, a function such"
                " as torch.nn.functional.relu, or a method such as 'add'"
            )
        return cls._single(_callable_name(named))

    @classmethod
    def _of_text(cls, text: str) -> ObjectKey:
        if not text.startswith(_OP_PREFIX):
            return cls._single(text if "." in text else _method(text))
        try:
            return cls.of(vocab.lookup(text.removeprefix(_OP_PREFIX)))
        except KeyError:
            raise ConfigError(
                f"docs/ops.md has no operation {text!r}; name what you wrote: a module type "
                "such as nn.Linear, a function such as torch.nn.functional.relu, a method: 'add'"
            ) from None

    @classmethod
    def _single(cls, name: str) -> ObjectKey:
        return cls(name, frozenset((name,)))


def spellings(op: OpDef) -> frozenset[str]:
    """Every type name that means ``op``."""
    return frozenset(
        (
            *map(type_name, op.modules),
            *map(qualified_name, op.functions),
            *map(_method, op.methods),
        )
    )


def with_twins(types: Iterable[type[nn.Module]]) -> frozenset[str]:
    """Type names of module types and of the functions and methods that compute the same.

    ``nn.Linear`` brings ``F.linear``; where a row of the vocabulary has several modules, the twins
    are those of the module's own name (``nn.ReLU6``: ``F.relu6``, not ``torch.clamp``).

    Raises:
        ConfigError: something is no module type.
    """
    found: set[str] = set()
    for kind in types:
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise ConfigError(f"types= takes module types such as nn.Linear, not {kind!r}")
        found.add(type_name(kind))
        for op in vocab.ops():
            if kind in op.modules:
                found |= _twins(kind, op)
    return frozenset(found)


def _twins(kind: type[nn.Module], op: OpDef) -> set[str]:
    functional = spellings(op) - set(map(type_name, op.modules))
    own = {n for n in functional if _bare(n) == kind.__name__.lower()}
    return own or set(functional)


def _bare(name: str) -> str:
    return name.rpartition(".")[2].rstrip("_").replace("_", "")


def _callable_name(function: object) -> str:
    """Name of a function as capture writes it; Tensor methods as "Tensor.add"."""
    if getattr(getattr(function, "__objclass__", None), "__name__", "") == "TensorBase":
        return _method(str(getattr(function, "__name__", "")))
    whole = str(getattr(function, "__qualname__", ""))
    return whole if whole.startswith("Tensor.") else qualified_name(function)


def _method(name: str) -> str:
    return f"Tensor.{name}"
