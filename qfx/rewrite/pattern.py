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

import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, fx, nn

from qfx.errors import PatternError
from qfx.rewrite.possible import check_possible, excludes, excludes_list
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
    """

    __slots__ = ("_args", "_text", "node")

    def __init__(self, text: str, *args: object, node: fx.Node | None = None) -> None:
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


_OPTIONS = ("bind", "users", "where", "commutative")

Where: TypeAlias = Callable[[fx.Node], "bool | Mismatch"]


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
        raise PatternError(f"{target_name(value)} alone is no pattern; write {written}")
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
        return excludes(annotation, self.value) if self.exact else ""

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


class Call(Pattern):
    """What :class:`Op` and :class:`Module` share: operands, attributes, users and a predicate."""

    def __init__(
        self,
        targets: tuple[object, ...],
        operands: tuple[object, ...],
        attributes: dict[str, object],
        *,
        bind: str | None,
        users: int | None,
        where: Where | None,
    ) -> None:
        if not targets:
            raise PatternError("a pattern needs a target")
        if users is not None and users < 0:
            raise PatternError(f"users must be 0 or more, got {users}")
        self.targets = targets
        self.operands = tuple(as_pattern(o) for o in operands)
        self.attributes = {name: as_pattern(a) for name, a in attributes.items()}
        if bind is not None and not isinstance(bind, str):
            raise PatternError(f"bind={bind!r} is no name")
        self.bind, self.users, self.where = bind, users, where

    def roots(self) -> Iterator[object]:
        yield from self.targets

    def children(self) -> tuple[Pattern, ...]:
        return (*self.operands, *self.attributes.values())

    @property
    def depth(self) -> int:
        return 1 + super().depth

    def swaps(self, node: fx.Node) -> bool:
        """Whether the first two operands of ``node`` may match in either order."""
        return False

    def expected(self) -> str:
        """The targets, for a message."""
        return " or ".join(target_name(t) for t in self.targets)

    def __repr__(self) -> str:
        parts = [self.expected(), *map(repr, self.operands)]
        parts += [f"{k}={v!r}" for k, v in self.attributes.items()]
        parts += [f"bind={self.bind!r}"] if self.bind else []
        parts += [f"users={self.users}"] if self.users is not None else []
        return f"{type(self).__name__}({', '.join(parts)})"


class Op(Call):
    """Matches an operation.

    Args:
        target: a canonical operation, a Python function, a string (the name of a Tensor method),
            or a tuple of those, any of which will do.
        operands: patterns or literals for the first parameters.
        bind: name under which the match keeps the node.
        users: how often the result must be read, exactly.
        where: a predicate over the node, which returns a bool or a :class:`Mismatch`.
        commutative: whether the first two operands may be swapped; by default known for ADD, MUL.
        attributes: patterns or literals for parameters by name.

    Raises:
        PatternError: the pattern is malformed, or no call of the operation can match it.
    """

    def __init__(
        self,
        target: object,
        *operands: object,
        bind: str | None = None,
        users: int | None = None,
        where: Where | None = None,
        commutative: bool | None = None,
        **attributes: object,
    ) -> None:
        targets = target if isinstance(target, tuple) else (target,)
        for each in targets:
            if isinstance(each, type) and issubclass(each, nn.Module):
                raise PatternError(
                    f"Op takes operations, functions and method names; for {each.__name__} write "
                    f"Module({each.__name__}, ...), or match its canonical operation"
                )
            if not callable(each) and not isinstance(each, str):
                raise PatternError(f"{each!r} is no operation, function or method name")
        super().__init__(targets, operands, attributes, bind=bind, users=users, where=where)
        ops = [target for target in targets if isinstance(target, OpDef)]
        if len(ops) == len(targets):
            check_possible(ops, self.operands, self.attributes, _OPTIONS)
        self.commutative = commutative

    def swaps(self, node: fx.Node) -> bool:
        if self.commutative is not None:
            return self.commutative
        return (
            isinstance(node.target, OpDef)
            and node.target.commutative
            and same_literal(node.kwargs.get("alpha", 1), 1)
        )


class Module(Call):
    """Matches a ``call_module`` node as written, for passes that run before canonicalization.

    The type must be exact: a subclass may compute something else. ``operands`` match the first
    arguments of its call, ``attributes`` what the module has (``Module(nn.ReLU, Any("x"),
    inplace=True)``), or else an argument of that name.
    """

    def __init__(
        self,
        kind: type[nn.Module] | tuple[type[nn.Module], ...],
        *operands: object,
        bind: str | None = None,
        users: int | None = None,
        where: Where | None = None,
        **attributes: object,
    ) -> None:
        kinds = kind if isinstance(kind, tuple) else (kind,)
        for each in kinds:
            if not (isinstance(each, type) and issubclass(each, nn.Module)):
                raise PatternError(f"{each!r} is no nn.Module type")
        super().__init__(kinds, operands, attributes, bind=bind, users=users, where=where)


def same_literal(a: Literal, b: Literal) -> bool:
    """Equality of literals: lists and tuples alike, but True is not 1."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same_literal, a, b))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b
    return bool(a == b)


def target_name(target: object) -> str:
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
