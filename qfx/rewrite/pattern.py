"""The pattern language: what a rule looks for, as data.

    Op(vocab.RELU, Op(vocab.CONV2D, Any("x"), bind="conv", users=1))

reads "a relu of a conv2d that nobody else reads". A pattern is rooted at the *last* operation and
reaches upward through operands. Operands match the first parameters of what is called, keywords the
parameters of that name, however the call was written: by position, by keyword, or left out, where
the default counts. What a pattern does not mention may be anything. Anything that is not a pattern
matches by equality, and a list or tuple matches a sequence of that length. Names bind: the same
name twice must find the same node, or an equal literal.

    Op(vocab.LINEAR, Any("x"), Attr("w"), bias=None)           no bias
    Op(vocab.LINEAR, Any("x"), Attr("w"), bias=Attr("b"))      a bias
    Op(vocab.LINEAR, Any("x"), Attr("w"), bias=Any("b"))       either; match["b"] may be None
    Op(vocab.LINEAR, Any("x"), Attr("w"))                      either

``users`` counts *reads*: ``add(y, y)`` reads ``y`` twice.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from string import Formatter
from typing import TypeAlias

from torch import Tensor, fx

from qfx.errors import PatternError
from qfx.rewrite.possible import excludes, excludes_kinds, excludes_list, excludes_tensors
from qfx.vocab import OpDef

Literal: TypeAlias = typing.Any
"""What stands in an argument besides a node: a number, string, dtype, tuple, None."""

ANY_ROOT: object = ("root", "any")
ATTRIBUTE_ROOT: object = ("root", "get_attr")


class Mismatch:
    """Why a pattern or rule does not apply: falsy, formatted only when it is read.

    Args:
        text: a :meth:`str.format` template, e.g. ``"groups is {0}"``.
        args: what fills it. A node shows as its name.
        node: the node at fault, when it is not the root of the match.

    Raises:
        PatternError: ``args`` do not fill the text.
    """

    __slots__ = ("_args", "_text", "node")

    def __init__(self, text: str, *args: object, node: fx.Node | None = None) -> None:
        fault = _unfilled(text, len(args)) if args else ""
        if fault:
            raise PatternError(f"Mismatch({text!r}, ...) can't be shown: {fault}")
        self._text, self._args, self.node = text, args, node

    @property
    def reason(self) -> str:
        """The formatted text."""
        return self._text.format(*self._args) if self._args else self._text

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return self.reason

    def __repr__(self) -> str:
        return f"Mismatch({self.reason!r})"


@lru_cache(maxsize=1024)
def _unfilled(text: str, count: int) -> str:
    """Why so many arguments do not fill a template; "" if they do."""
    try:
        fields = [name for _, name, _, _ in Formatter().parse(text) if name is not None]
    except ValueError as error:
        return f"{error}; write {{{{ and }}}} for braces"
    places = [re.split(r"[.\[]", name)[0] for name in fields]
    numbers = [i if place == "" else place for i, place in enumerate(places)]
    wrong = [n for n in numbers if not str(n).isdigit() or int(n) >= count]
    return f"{{{wrong[0]}}} is none of its {count} argument(s), from {{0}} on" if wrong else ""


class Pattern:
    """Base of all patterns."""

    bind: str | None = None

    def roots(self) -> Iterator[object]:
        """Keys under which a matcher files a rule with this pattern as its root."""
        raise NotImplementedError

    def children(self) -> tuple[Pattern, ...]:
        """Patterns of the operands and attributes."""
        return ()

    def excludes(self, annotation: str) -> str:
        """Why it matches no argument of a parameter so annotated; "" if it may match one."""
        return ""

    @property
    def depth(self) -> int:
        """How many operations lie on the longest path; 0 for a leaf."""
        return max((c.depth for c in self.children()), default=0)


def as_pattern(value: object) -> Pattern:
    """``value`` as a pattern: itself, a :class:`Seq` of patterns, else a :class:`Const`.

    ``Any`` and ``Attr`` may be written without parentheses.
    """
    if isinstance(value, Pattern):
        return value
    if value is Any or value is Attr:
        return Any() if value is Any else Attr()
    if isinstance(value, OpDef) or (isinstance(value, type) and issubclass(value, Pattern)):
        written = f"Op({value.name}, ...)" if isinstance(value, OpDef) else f"{value.__name__}(...)"
        raise PatternError(f"{sought_name(value)} alone is no pattern; write {written}")
    if isinstance(value, (list, tuple)) and any(isinstance(v, Pattern) for v in value):
        return Seq(tuple(as_pattern(v) for v in value))
    return Const(value, exact=True)


def _check_bind(bind: object, written: str) -> None:
    if bind is None or isinstance(bind, str):
        return
    hint = f"; for an operation write Op({bind.name}, ...)" if isinstance(bind, OpDef) else ""
    shown = bind.name if isinstance(bind, OpDef) else repr(bind)
    raise PatternError(f"{written} takes the name to bind, a string, not {shown}{hint}")


@dataclass(frozen=True)
class Any(Pattern):
    """Matches any node or literal."""

    bind: str | None = None

    def __post_init__(self) -> None:
        _check_bind(self.bind, "Any")

    def roots(self) -> Iterator[object]:
        yield ANY_ROOT


@dataclass(frozen=True)
class Attr(Pattern):
    """Matches a parameter, buffer or constant of the model (a ``get_attr`` node).

    Of a module as written it matches a tensor that the module holds.
    """

    bind: str | None = None

    def __post_init__(self) -> None:
        _check_bind(self.bind, "Attr")

    def excludes(self, annotation: str) -> str:
        return excludes_tensors(annotation)

    def __str__(self) -> str:
        return "a parameter or constant"

    def roots(self) -> Iterator[object]:
        yield ATTRIBUTE_ROOT


@dataclass(frozen=True)
class Const(Pattern):
    """Matches a literal: equal to ``value``, an instance of it (a type), or accepted by it.

    ``Const(float)`` takes floats, ``Const((int, float))`` both, ``Const(lambda v: v > 0)`` what the
    predicate accepts, ``Const(6.0)`` the number six. A bool is not taken for an int.
    """

    value: Literal
    bind: str | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        _check_bind(self.bind, "bind of Const")

    def roots(self) -> Iterator[object]:
        raise PatternError(
            f"{self} cannot be the root of a pattern: a root is an operation. Wrap it in Op(...)."
        )

    def excludes(self, annotation: str) -> str:
        kinds = self.value if isinstance(self.value, tuple) else (self.value,)
        if self.exact or not (callable(self.value) or all(isinstance(k, type) for k in kinds)):
            return excludes(annotation, self.value)
        return excludes_kinds(annotation, [k for k in kinds if isinstance(k, type)], str(self))

    def accepts(self, literal: Literal) -> bool:
        """Whether ``literal`` (not a node) matches."""
        if self.exact:
            return same_literal(literal, self.value)
        kinds = self.value if isinstance(self.value, tuple) else (self.value,)
        if kinds and all(isinstance(k, type) for k in kinds):
            return isinstance(literal, kinds) and (not isinstance(literal, bool) or bool in kinds)
        if callable(self.value):
            return bool(self.value(literal))
        return same_literal(literal, self.value)

    def __str__(self) -> str:
        name = getattr(self.value, "__name__", None)
        return name if isinstance(name, str) else repr(self.value)


@dataclass(frozen=True)
class Seq(Pattern):
    """Matches a list or tuple item by item; written as a plain list of patterns."""

    items: tuple[Pattern, ...]

    def roots(self) -> Iterator[object]:
        raise PatternError("a list cannot be the root of a pattern: a root is an operation")

    def children(self) -> tuple[Pattern, ...]:
        return self.items

    def excludes(self, annotation: str) -> str:
        return excludes_list(annotation)

    def __str__(self) -> str:
        return f"a list of {len(self.items)}"


class OneOf(Pattern):
    """Matches if any alternative does; they are tried in order."""

    def __init__(self, *alternatives: Pattern) -> None:
        if len(alternatives) < 2:
            raise PatternError("OneOf needs two alternatives or more")
        self.alternatives = tuple(as_pattern(a) for a in alternatives)

    def roots(self) -> Iterator[object]:
        for alternative in self.alternatives:
            yield from alternative.roots()

    def children(self) -> tuple[Pattern, ...]:
        return self.alternatives

    def __repr__(self) -> str:
        return f"OneOf({', '.join(map(repr, self.alternatives))})"


def same_literal(a: Literal, b: Literal) -> bool:
    """Equality of literals: lists and tuples alike, but True is not 1."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same_literal, a, b))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b
    return bool(a == b)


def sought_name(target: object) -> str:
    """Name of a target for messages: ``conv2d``, ``.relu()``, ``ReLU``."""
    if isinstance(target, OpDef):
        return target.name
    if isinstance(target, str):
        return f".{target}()"
    return str(getattr(target, "__name__", target))


def walk(pattern: Pattern) -> Iterator[Pattern]:
    """``pattern`` and everything inside it."""
    yield pattern
    for child in pattern.children():
        yield from walk(child)
