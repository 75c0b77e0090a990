"""One attempt to match a pattern: its goals, what was bound, and the best reason why not."""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor, fx

from qfx.rewrite import call_patterns
from qfx.rewrite import pattern as p
from qfx.rewrite.pattern import Literal, Mismatch, Pattern

ArgumentPlace: TypeAlias = "tuple[call_patterns.CallPattern, fx.Node, int | str]"
"""Where an argument stands: of which call, and at which position or under which name."""

Goals: TypeAlias = "tuple[Pattern, Literal, ArgumentPlace | None, Goals] | None"
"""A linked list: a pattern, the value that it must match, where that stands, and further goals."""


class Attempt:
    """What one attempt has bound, and how far the best of its tries came.

    Attributes:
        bindings: values by the names of the pattern.
        nodes: those that calls and attributes of the pattern match.
        operations: how many calls are matched.
        best: the reason of the try that came furthest.
        best_operations: how many calls it had matched.
        best_is_near: whether it failed at something else than another call.
    """

    __slots__ = ("best", "best_is_near", "best_operations", "bindings", "nodes", "operations")

    def __init__(self) -> None:
        self.bindings: dict[str, Literal] = {}
        self.nodes: list[fx.Node] = []
        self.operations = 0
        self.best: Mismatch | None = None
        self.best_operations = 0
        self.best_is_near = False

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

    def bind(self, name: str, value: Literal) -> bool:
        """Give ``value`` a name; False if that already means something else."""
        if name not in self.bindings:
            self.bindings[name] = value
            return True
        first = self.bindings[name]
        both_literal = not isinstance(first, fx.Node) and not isinstance(value, fx.Node)
        if first is value or (both_literal and p.same_literal(first, value)):
            return True
        text = "{0} is {1} in one place and {2} in another"
        return self.fail(Mismatch(text, name, shown_as(first), shown_as(value)))


def accepts(pattern: p.Const, value: Literal) -> bool:
    return not isinstance(value, fx.Node) and pattern.accepts(value)


def label_of(pattern: call_patterns.CallPattern, node: fx.Node) -> str:
    return pattern.bind or node.name


def shown_as(value: Literal) -> str:
    if isinstance(value, fx.Node):
        return f"%{value.name}"
    return "a tensor" if isinstance(value, Tensor) else repr(value)
