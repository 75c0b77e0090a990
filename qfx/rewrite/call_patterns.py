"""Patterns of calls: operations, functions and methods, and modules as written."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from torch import fx, nn

from qfx.errors import PatternError
from qfx.rewrite.pattern import Any, Mismatch, Pattern, as_pattern, same_literal, sought_name
from qfx.rewrite.possible import check_possible
from qfx.vocab import OpDef

if TYPE_CHECKING:
    from qfx.rewrite.rule import Match

_OPTIONS = ("bind", "users", "where", "commutative")

Where: TypeAlias = "Callable[[fx.Node], bool | Mismatch] | WhereMatched"
WhereMatched: TypeAlias = "Callable[[fx.Node, Match], bool | Mismatch]"


class CallPattern(Pattern):
    """What :class:`Op` and :class:`Module` share: operands, attributes, users and a predicate.

    Attributes:
        targets: what may be called, any of which will do.
        operands, attributes: patterns of arguments, by position and by name.
        users, where: see :class:`Op`.
        condition: the goal that ``where`` is, if it asks for the match.
        expected: the targets, for a message.
        may_swap: whether the first two operands of some call may match in either order.
        reach: how many operands have to be known to match.
    """

    may_swap = False
    users: int | None

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
        if users is not None and (type(users) is not int or users < 0):
            raise PatternError(f"users must be a number, 0 or more, got {users!r}")
        if where is not None and not callable(where):
            raise PatternError(f"where is {where!r}; give a predicate: where=lambda node: ...")
        self.targets = targets
        self.operands = tuple(as_pattern(o) for o in operands)
        self.reach = len(self.operands)
        self.attributes = {name: as_pattern(a) for name, a in attributes.items()}
        for child in self.children():
            if isinstance(child, CallPattern) and child.users == 0:
                raise PatternError(f"{child} is read by {targets[0]!r}: users=0 never holds of it")
        if bind is not None and not isinstance(bind, str):
            raise PatternError(f"bind={bind!r} is no name")
        self.bind, self.users, self.where = bind, users, where
        self.expected = " or ".join(sought_name(target) for target in targets)
        self.condition = Condition(self) if where is not None and _asks_match(where) else None

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

    def __repr__(self) -> str:
        parts = [self.expected, *map(repr, self.operands)]
        parts += [f"{k}={v!r}" for k, v in self.attributes.items()]
        parts += [f"bind={self.bind!r}"] if self.bind else []
        parts += [f"users={self.users}"] if self.users is not None else []
        return f"{type(self).__name__}({', '.join(parts)})"


class Condition(Pattern):
    """Matches where the predicate of a call holds for what is matched by then: its operands too."""

    def __init__(self, call: CallPattern) -> None:
        self.call = call


def _asks_match(where: Where) -> bool:
    """Whether a predicate takes the match as well as the node."""
    try:
        parameters = inspect.signature(where).parameters.values()
    except (TypeError, ValueError):  # builtins that tell nothing
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters) > 1


class Op(CallPattern):
    """Matches an operation.

    Args:
        target: a canonical operation, a Python function, a string (the name of a Tensor method),
            or a tuple of those, any of which will do.
        operands: patterns or literals for the first parameters.
        bind: name under which the match keeps the node.
        users: how often the result must be read, exactly.
        where: a predicate over the node, or over the node and the :class:`Match` so far: what
            stands in front of it in the pattern, and its own operands. It returns a bool or a
            :class:`Mismatch`.
        commutative: whether the first two operands may be swapped; by default known for ADD, MUL.
        attributes: patterns or literals for parameters by name. What is left out, as operands that
            are, may be anything: a stride, groups, fused post-ops (``post=()`` asks for none).

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
        self.commutative = commutative
        self.may_swap = any(op.commutative for op in ops) if commutative is None else commutative
        if len(ops) == len(targets):
            check_possible(ops, self._orders(), self.attributes, _OPTIONS)
        if self.may_swap and self.operands:
            self.reach = max(self.reach, 2)

    def _orders(self) -> list[tuple[Pattern, ...]]:
        """The operands in each order in which they may stand."""
        if not (self.may_swap and self.operands):
            return [self.operands]
        first, second, *others = (*self.operands, Any()) if self.reach < 2 else self.operands
        return [self.operands, (second, first, *others)]

    def swaps(self, node: fx.Node) -> bool:
        if self.commutative is not None:
            return self.commutative
        return (
            isinstance(node.target, OpDef)
            and node.target.commutative
            and same_literal(node.kwargs.get("alpha", 1), 1)
        )


class Module(CallPattern):
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
