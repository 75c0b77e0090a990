"""Sets of values that may lie in the same memory, and what is known of each set."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Generic, TypeVar

from torch import fx

from qfx.graph import meta
from qfx.graph.disjoint import DisjointSets
from qfx.graph.effects import shares_memory
from qfx.graph.known_calls import is_known
from qfx.vocab import OpDef

F = TypeVar("F")


class Aliases(Generic[F]):
    """Which values may lie in the same memory, as far as they have been taken in.

    Args:
        merge: what is known of two sets that may be one, told of the one that stays and the other.
    """

    def __init__(self, merge: Callable[[F, F], F]) -> None:
        self._sets: DisjointSets[fx.Node] = DisjointSets()
        self._facts: dict[fx.Node, F] = {}
        self._merge = merge
        self._elements: dict[fx.Node, dict[int, fx.Node]] = {}

    def __contains__(self, value: fx.Node) -> bool:
        return value in self._sets

    def owner(self, value: fx.Node) -> fx.Node:
        """The value by which all are known that may lie in the memory of ``value``."""
        return self._sets.root(value)

    def fact(self, value: fx.Node) -> F:
        """What is known of all that may lie in the memory of ``value``."""
        return self._facts[self._sets.root(value)]

    def add(self, value: fx.Node, fact: F) -> None:
        """Take in a value that lies, so far, in memory of its own."""
        self._sets.add(value)
        self._facts[value] = fact

    def join(self, value: fx.Node, other: fx.Node) -> None:
        """Note that two values may lie in the same memory."""
        gone = self._sets.join(value, other)
        if gone is not None:
            kept = self._sets.root(other)
            self._facts[kept] = self._merge(self._facts[kept], self._facts.pop(gone))

    def tie(
        self, node: fx.Node, now: Callable[[fx.Node], fx.Node] = lambda operand: operand
    ) -> tuple[fx.Node, ...]:
        """Join the result of a call to the operands that it may share memory with.

        Args:
            node: the call, taken in before.
            now: what holds the value of an operand by now.

        Returns:
            These operands.
        """
        element = _own_element(node)
        if element is not None:
            made, index = element
            self.join(node, self._elements.setdefault(made, {}).setdefault(index, node))
            return ()
        shared = shares_memory(node)
        for operand in shared:
            for value in (now(operand), *self._elements.get(operand, {}).values()):
                self.join(node, value)
        return shared


def _own_element(node: fx.Node) -> tuple[fx.Node, int] | None:
    """Which of several tensors ``node`` takes out of those that a call of PyTorch's made.

    Each has its own memory, unless the call made views.
    """
    if node.target is not operator.getitem or not isinstance(node.args[1], int):
        return None
    made = node.args[0]
    assert isinstance(made, fx.Node)
    if made.op == "placeholder" or isinstance(made.target, OpDef) or not is_known(made):
        return None
    values = meta.value_of(made)
    if meta.is_alias(made) or meta.tensor_info(made) is not None:
        return None
    if not isinstance(values, (tuple, list)) or not values:
        return None
    if any(user.target is not operator.getitem for user in made.users):
        return None
    return made, node.args[1] % len(values)
