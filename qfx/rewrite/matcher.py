"""Finds where patterns match, and remembers where they nearly did.

Rules are filed under the targets of their roots, so a node is only tried against rules that can
match it. A match is solved as a list of goals ``(pattern, value)`` with backtracking over the
order of commutative operands and over alternatives, so a choice that a later operand contradicts
is taken back. The cost of one attempt depends on the pattern, not on the graph.

A *near-miss* is an attempt that got past the root: it matched an operation below it, or it failed
on a user count, a predicate or in the rule itself. Its reason is what ``explain`` shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, TypeAlias

from torch import fx, nn

from qfx.rewrite import pattern as p
from qfx.rewrite.pattern import Literal, Mismatch, Pattern
from qfx.rewrite.rule import Match, RewriteRule
from qfx.vocab import OpDef

Goals: TypeAlias = "tuple[Pattern, Any, Goals] | None"
"""A linked list of patterns and the values they must match."""


@dataclass
class _Attempt:
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


class Matcher:
    """Rules, indexed by what their roots match in one graph.

    Args:
        rules: in order of precedence at one node.
        graph_module: owner of the graph; resolves the types of submodules.

    Attributes:
        depth: operations on the longest path of any pattern.
    """

    def __init__(self, rules: Sequence[RewriteRule], graph_module: fx.GraphModule) -> None:
        self._graph_module = graph_module
        self._filed: dict[object, list[int]] = {}
        self._rules = tuple(rules)
        self.depth = max((r.pattern.depth for r in self._rules), default=0)
        self._by_key: dict[object, tuple[RewriteRule, ...]] = {}
        self._submodules: dict[str, nn.Module] = {}
        for position, rule in enumerate(self._rules):
            for key in dict.fromkeys(rule.pattern.roots()):
                self._filed.setdefault(key, []).append(position)

    def rules_for(self, node: fx.Node) -> tuple[RewriteRule, ...]:
        """Rules whose root may match ``node``, in order of precedence."""
        key = self.key(node)
        found = self._by_key.get(key)
        if found is None:
            anywhere = self._filed.get(p.ANY_ROOT, [])
            positions = sorted({*self._filed.get(key, []), *anywhere})
            found = self._by_key[key] = tuple(self._rules[i] for i in positions)
        return found

    def key(self, node: fx.Node) -> object:
        """What rules at ``node`` are filed under."""
        if node.op == "call_module":
            return type(self.submodule(node))
        if node.op in ("call_function", "call_method"):
            return node.target
        return ("root", node.op)

    def untried(self) -> list[RewriteRule]:
        """Rules for whose root :meth:`rules_for` has not seen a node."""
        seen = {p.ANY_ROOT, *self._by_key}
        return [r for r in self._rules if seen.isdisjoint(r.pattern.roots())]

    def submodule(self, node: fx.Node) -> nn.Module:
        """The module that a ``call_module`` node calls."""
        target = str(node.target)
        if target not in self._submodules:
            self._submodules[target] = self._graph_module.get_submodule(target)
        return self._submodules[target]

    def match(self, rule: RewriteRule, node: fx.Node) -> Match | Mismatch | None:
        """Try ``rule`` at ``node``: the match, the reason of a near-miss, or None."""
        attempt = _Attempt()
        if self._solve((rule.pattern, node, None), attempt):
            return Match(node, attempt.nodes, attempt.bindings, rule.name)
        near = attempt.best_is_near or attempt.best_operations > 1
        return attempt.best if near else None

    def _solve(self, goals: Goals, attempt: _Attempt) -> bool:
        """Match all goals, or leave ``attempt`` as it was, apart from the best reason."""
        if goals is None:
            return True
        pattern, value, rest = goals
        mark = attempt.mark()
        if isinstance(pattern, p.OneOf):
            return any(self._solve((a, value, rest), attempt) for a in pattern.alternatives)
        for operands in self._enter(pattern, value, attempt):
            if self._solve(_chain(operands, rest), attempt):
                return True
        attempt.reset(mark)
        return False

    def _enter(
        self, pattern: Pattern, value: Literal, attempt: _Attempt
    ) -> Iterator[Sequence[tuple[Pattern, Literal]]]:
        """Match ``pattern`` itself; yield each list of goals that remains, none on failure."""
        if isinstance(pattern, p.Call):
            yield from self._enter_call(pattern, value, attempt)
        elif isinstance(pattern, p.Seq):
            yield from _enter_sequence(pattern, value, attempt)
        elif _leaf(pattern, value, attempt) and _bind(pattern, value, attempt):
            yield ()

    def _enter_call(
        self, pattern: p.Call, value: Literal, attempt: _Attempt
    ) -> Iterator[Sequence[tuple[Pattern, Literal]]]:
        if not isinstance(value, fx.Node) or self.key(value) not in pattern.targets:
            found = _shown(value) if not isinstance(value, fx.Node) else self._named(value)
            attempt.fail(Mismatch("expected {0}, found {1}", pattern.expected(), found))
            return
        attempt.operations += 1
        if not _bind(pattern, value, attempt):
            return
        attempt.nodes.append(value)
        fault = _check_users(pattern, value)
        if fault is None:
            fault = _check_where(pattern, value)
        if fault is not None:
            attempt.fail(fault, near=True)
            return
        attributes = self._attributes(pattern, value, attempt)
        if attributes is None:
            return
        count = len(pattern.operands)
        if len(value.args) < count:
            text = "{0}: expected {1} operands, has {2}"
            attempt.fail(Mismatch(text, _label(pattern, value), count, len(value.args), node=value))
            return
        for order in _orders(value, count, swaps=pattern.swaps(value)):
            yield [*zip(pattern.operands, order, strict=True), *attributes]

    def _attributes(
        self, pattern: p.Call, node: fx.Node, attempt: _Attempt
    ) -> list[tuple[Pattern, Literal]] | None:
        goals: list[tuple[Pattern, Literal]] = []
        for name, expected in pattern.attributes.items():
            present, actual = self._attribute(node, name)
            if not present:
                text = "{0}: has no attribute {1}"
                attempt.fail(Mismatch(text, _label(pattern, node), name, node=node))
                return None
            if isinstance(expected, p.Const) and not _accepts(expected, actual):
                text = "{0}: expected {1}={2}, is {3}"
                label, shown = _label(pattern, node), _shown(actual)
                attempt.fail(Mismatch(text, label, name, expected, shown, node=node), near=True)
                return None
            goals.append((expected, actual))
        return goals

    def _attribute(self, node: fx.Node, name: str) -> tuple[bool, Literal]:
        """Whether ``node`` has the attribute, written or by default, and its value."""
        if node.op == "call_module":
            module = self.submodule(node)
            return hasattr(module, name), getattr(module, name, None)
        if name in node.kwargs:
            return True, node.kwargs[name]
        if isinstance(node.target, OpDef) and name in node.target.signature.parameters:
            default = node.target.signature.parameters[name].default
            return default is not node.target.signature.empty, default
        return False, None

    def _named(self, node: fx.Node) -> str:
        key = self.key(node)
        return p.target_name(key) if node.op.startswith("call_") else node.op


def _chain(goals: Sequence[tuple[Pattern, Literal]], rest: Goals) -> Goals:
    for pattern, value in reversed(goals):
        rest = (pattern, value, rest)
    return rest


def _enter_sequence(
    pattern: p.Seq, value: Literal, attempt: _Attempt
) -> Iterator[Sequence[tuple[Pattern, Literal]]]:
    if not isinstance(value, (list, tuple)):
        attempt.fail(Mismatch("expected a list of {0}, found {1}", len(pattern.items), value))
    elif len(value) != len(pattern.items):
        text = "expected a list of {0}, has {1}"
        attempt.fail(Mismatch(text, len(pattern.items), len(value)))
    else:
        yield list(zip(pattern.items, value, strict=True))


def _leaf(pattern: Pattern, value: Literal, attempt: _Attempt) -> bool:
    """Whether a pattern without operands matches ``value``."""
    if isinstance(pattern, p.Const):
        if _accepts(pattern, value):
            return True
        return attempt.fail(Mismatch("expected {0}, found {1}", pattern, _shown(value)))
    if not isinstance(pattern, p.Attr):
        return True
    if not isinstance(value, fx.Node) or value.op != "get_attr":
        return attempt.fail(Mismatch("expected a parameter or constant, found {0}", _shown(value)))
    attempt.nodes.append(value)
    return True


def _accepts(pattern: p.Const, value: Literal) -> bool:
    return not isinstance(value, fx.Node) and pattern.accepts(value)


def _bind(pattern: Pattern, value: Literal, attempt: _Attempt) -> bool:
    """Bind the name of ``pattern``, if it has one; False if it already means something else."""
    name = pattern.bind
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
    return attempt.fail(Mismatch(text, name, _shown(first), _shown(value)))


def _orders(node: fx.Node, count: int, *, swaps: bool) -> Iterable[tuple[Literal, ...]]:
    """The operands in each order that may match: as written first."""
    if not swaps or not count or len(node.args) < 2:
        return (tuple(node.args[:count]),)
    front = min(count, 2)
    tail = tuple(node.args[2:count])
    return (chosen + tail for chosen in permutations(node.args[:2], front))


def _check_users(pattern: p.Call, node: fx.Node) -> Mismatch | None:
    if pattern.users is None:
        return None
    # Every user reads at least once: too many users need no counting of reads.
    users = len(node.users)
    reads = users if users > pattern.users else count_reads(node)
    if reads == pattern.users:
        return None
    noun = "user" if pattern.users == 1 else "users"
    label = _label(pattern, node)
    return Mismatch("{0}: expected {1} {2}, has {3}", label, pattern.users, noun, reads, node=node)


def _check_where(pattern: p.Call, node: fx.Node) -> Mismatch | None:
    if pattern.where is None:
        return None
    verdict = pattern.where(node)
    if isinstance(verdict, Mismatch):
        return verdict
    if verdict:
        return None
    name = getattr(pattern.where, "__name__", "where").strip("<>_")
    return Mismatch("{0}: refused by {1}", _label(pattern, node), name, node=node)


def count_reads(node: fx.Node) -> int:
    """How many arguments of other nodes are ``node``; a user that reads it twice counts twice."""
    reads = 0

    def visit(argument: fx.Node) -> fx.Node:
        nonlocal reads
        reads += argument is node
        return argument

    for user in node.users:
        fx.map_arg((user.args, user.kwargs), visit)
    return reads


def _label(pattern: p.Call, node: fx.Node) -> str:
    return pattern.bind or node.name


def _shown(value: Literal) -> str:
    return f"%{value.name}" if isinstance(value, fx.Node) else repr(value)
