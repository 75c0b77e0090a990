"""Which rules may match at a node, told from what it calls and what its operands are.

Rules are filed under the targets of their roots. Of those that are filed where a node belongs, many
want another operation as an operand than stands there, and come to nothing but their root: no match
and no near-miss. What is left depends on the node's target and those of its operands alone, so it
is found once for each such combination and looked up from then on. A node costs the same with ten
rules as with ten thousand, but for those that come near it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from torch import fx

from qfx.rewrite import pattern as p
from qfx.rewrite.call_patterns import CallPattern, Op
from qfx.rewrite.pattern import Pattern
from qfx.rewrite.rule import RewriteRule
from qfx.vocab import OpDef

Keys: TypeAlias = "tuple[object, ...]"

_LITERAL = ("operand", "literal")
"""The key of an operand that is no node."""


class Candidates(NamedTuple):
    """Rules for nodes that look alike.

    Attributes:
        near: those that may match or nearly do, in order of precedence.
        far: those that want another operation as an operand.
    """

    near: tuple[RewriteRule, ...]
    far: tuple[RewriteRule, ...] = ()


class _Shelf:
    """The rules for nodes of one key.

    Attributes:
        width: how many operands tell rules apart.
        by_operands: what is left of them for nodes with operands of these keys.
    """

    __slots__ = ("by_operands", "rules", "width")

    def __init__(self, rules: tuple[RewriteRule, ...]) -> None:
        self.rules = rules
        self.width = max((_width(rule.pattern) for rule in rules), default=0)
        self.by_operands: dict[Keys, Candidates] = {}


class PatternIndex:
    """Rules by what their roots and the operands of these match.

    Args:
        rules: in order of precedence at one node.
        key: what rules for a node are filed under.
    """

    def __init__(self, rules: Sequence[RewriteRule], key: Callable[[fx.Node], object]) -> None:
        self._rules, self._key = tuple(rules), key
        self._filed: dict[object, list[int]] = {}
        self._shelves: dict[object, _Shelf] = {}
        for position, rule in enumerate(self._rules):
            for root in dict.fromkeys(rule.pattern.roots()):
                self._filed.setdefault(root, []).append(position)

    def candidates(self, node: fx.Node) -> tuple[Candidates, bool]:
        """The rules for ``node``, and whether it is the first that looks so."""
        key = self._key(node)
        shelf = self._shelves.get(key)
        if shelf is None:
            shelf = self._shelves[key] = _Shelf(tuple(self._filed_under(key)))
        operands = tuple([self._operand(each) for each in node.args[: shelf.width]])
        found = shelf.by_operands.get(operands)
        if found is not None:
            return found, False
        found = shelf.by_operands[operands] = _sorted_out(shelf.rules, key, operands)
        return found, True

    def untried(self) -> list[RewriteRule]:
        """Rules for whose root no node has come by."""
        seen = {p.ANY_ROOT, *self._shelves}
        return [rule for rule in self._rules if seen.isdisjoint(rule.pattern.roots())]

    def _filed_under(self, key: object) -> Iterable[RewriteRule]:
        anywhere = self._filed.get(p.ANY_ROOT, [])
        return (self._rules[i] for i in sorted({*self._filed.get(key, []), *anywhere}))

    def _operand(self, value: object) -> object:
        return self._key(value) if isinstance(value, fx.Node) else _LITERAL


def _sorted_out(rules: Iterable[RewriteRule], key: object, operands: Keys) -> Candidates:
    near: list[RewriteRule] = []
    far: list[RewriteRule] = []
    for rule in rules:
        (far if _is_far(rule.pattern, key, operands) else near).append(rule)
    return Candidates(tuple(near), tuple(far))


def _width(pattern: Pattern) -> int:
    """How many operands of a root tell whether ``pattern`` is far from it."""
    if isinstance(pattern, p.OneOf):
        return max(map(_width, pattern.alternatives))
    if not isinstance(pattern, Op) or not _is_told_by_operands(pattern):
        return 0
    return pattern.reach


def _is_told_by_operands(pattern: Op) -> bool:
    """Whether the first that a match at its root can fail at is an operand.

    The operands of what is no operation of the vocabulary may be given in another order.
    """
    asks_node = pattern.where is not None and pattern.condition is None
    if pattern.users is not None or asks_node:
        return False
    ops = [target for target in pattern.targets if isinstance(target, OpDef)]
    return len(ops) == len(pattern.targets) and not any(
        isinstance(wanted, p.Const) or any(name not in op.signature.parameters for op in ops)
        for name, wanted in pattern.attributes.items()
    )


def _is_far(pattern: Pattern, key: object, operands: Keys) -> bool:
    """Whether an attempt at a node of that key fails at an operand that is another operation."""
    if isinstance(pattern, p.OneOf):
        return all(_is_far(each, key, operands) for each in pattern.alternatives)
    if not isinstance(pattern, CallPattern):
        return False
    if key not in pattern.targets:
        return True
    if not isinstance(pattern, Op) or not _is_told_by_operands(pattern):
        return False
    if not pattern.may_swap:
        return _contradict(pattern.operands, operands)
    swapped = (*reversed(operands[:2]), *operands[2:]) if len(operands) > 1 else ()
    return all(_contradict(pattern.operands, order) for order in (operands, swapped))


def _contradict(wanted: Sequence[Pattern], operands: Keys) -> bool:
    """Whether the first operand that fails is another operation; what is unknown may match."""
    for pattern, key in zip(wanted, operands, strict=False):
        if _is_other(pattern, key):
            return True
        if not _is_silent(pattern, key):
            return False
    return False


def _is_other(pattern: Pattern, key: object) -> bool:
    """Whether an operand of that key is another operation than ``pattern`` wants."""
    if isinstance(pattern, p.OneOf):
        return all(_is_other(each, key) for each in pattern.alternatives)
    return isinstance(pattern, CallPattern) and key not in pattern.targets


def _is_silent(pattern: Pattern, key: object) -> bool:
    """Whether an operand of that key matches without being a step on the way to a near-miss."""
    is_attribute = isinstance(pattern, p.Attr) and key == p.ATTRIBUTE_ROOT
    return is_attribute or isinstance(pattern, p.Any)
