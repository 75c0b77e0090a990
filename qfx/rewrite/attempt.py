"""One attempt to match a pattern: its goals, what was bound, and the best reason why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from torch import Tensor, fx

from qfx.rewrite import call_patterns
from qfx.rewrite import pattern as p
from qfx.rewrite.pattern import Literal, Mismatch, Pattern


class ArgumentPlace(NamedTuple):
    """Where an argument stands: of which call, and under which name, if it has one."""

    call: call_patterns.CallPattern
    node: fx.Node
    name: str
    position: int

    def expected(self, pattern: Pattern, shown: str) -> Mismatch:
        """That what is ``shown`` stands there and ``pattern`` does not match it."""
        label = label_of(self.call, self.node)
        if isinstance(pattern, p.Const) and self.name:
            text = "{0}: expected {1}={2}, is {3}"
            return Mismatch(text, label, self.name, pattern, shown, node=self.node)
        name = self.name or f"operand {self.position}"
        text = "{0}: expected {1} to be {2}, is {3}"
        return Mismatch(text, label, name, pattern, shown, node=self.node)


class Goal(NamedTuple):
    """A pattern, and the value that it must match."""

    pattern: Pattern
    value: Literal
    place: ArgumentPlace | None = None


Goals: TypeAlias = "tuple[Goal, Goals] | None"
"""A linked list of goals."""


@dataclass
class Attempt:
    """What one attempt has bound, and how far the best of its tries came."""

    bindings: dict[str, Literal] = field(default_factory=dict)
    nodes: list[fx.Node] = field(default_factory=list)
    operations: int = 0
    best: Mismatch | None = None
    best_operations: int = 0
    best_is_near: bool = False

    def fail(self, mismatch: Mismatch, *, near: bool = False) -> bool:
        """Keep ``mismatch`` if no try came further; always False."""
        rank = (self.operations, near)
        if self.best is None or rank > (self.best_operations, self.best_is_near):
            self.best, self.best_operations, self.best_is_near = mismatch, self.operations, near
        return False

    def mark(self) -> tuple[int, int, int]:
        return len(self.bindings), len(self.nodes), self.operations

    def reset(self, mark: tuple[int, int, int]) -> None:
        bindings, nodes, self.operations = mark
        while len(self.bindings) > bindings:
            self.bindings.popitem()
        del self.nodes[nodes:]


def misfit(goal: Goal, shown: str, attempt: Attempt) -> bool:
    """Fail because of an argument that is no operation; always False."""
    if goal.place is not None:
        return attempt.fail(goal.place.expected(goal.pattern, shown), near=True)
    return attempt.fail(Mismatch("expected {0}, found {1}", goal.pattern, shown))


def accepts(pattern: p.Const, value: Literal) -> bool:
    return not isinstance(value, fx.Node) and pattern.accepts(value)


def bind_name(goal: Goal, attempt: Attempt) -> bool:
    """Bind the name of the pattern, if it has one; False if it already means something else."""
    name, value = goal.pattern.bind, goal.value
    if name is None:
        return True
    if name not in attempt.bindings:
        attempt.bindings[name] = value
        return True
    first = attempt.bindings[name]
    both_literal = not isinstance(first, fx.Node) and not isinstance(value, fx.Node)
    if first is value or (both_literal and p.same_literal(first, value)):
        return True
    text = "{0} is {1} in one place and {2} in another"
    return attempt.fail(Mismatch(text, name, shown_as(first), shown_as(value)))


def label_of(pattern: call_patterns.CallPattern, node: fx.Node) -> str:
    return pattern.bind or node.name


def shown_as(value: Literal) -> str:
    if isinstance(value, fx.Node):
        return f"%{value.name}"
    return "a tensor" if isinstance(value, Tensor) else repr(value)
