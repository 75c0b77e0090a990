"""Finds where patterns match, and remembers where they nearly did.

Rules are filed under the targets of their roots, so a node is only tried against rules that can
match it. A match is solved as a list of goals ``(pattern, value)`` with backtracking over the
order of commutative operands and over alternatives, so a choice that a later operand contradicts
is taken back. The cost of one attempt depends on the pattern, not on the graph.

A *near-miss* is an attempt that got past the root: it matched an operation below it, or it failed
on an argument that is no operation, a user count, a predicate or in the rule itself. Its reason is
what ``explain`` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import permutations
from typing import cast

from torch import Tensor, fx, nn

from qfx.rewrite import call_patterns
from qfx.rewrite import pattern as p
from qfx.rewrite.arguments import CallArguments, arguments_of
from qfx.rewrite.attempt import (
    ArgumentPlace,
    Attempt,
    Goal,
    Goals,
    accepts,
    bind_name,
    label_of,
    misfit,
    shown_as,
)
from qfx.rewrite.pattern import Literal, Mismatch
from qfx.rewrite.rule import Match, RewriteRule


class Matcher:
    """Rules, indexed by what their roots match in one graph.

    Args:
        rules: in order of precedence at one node.
        graph_module: owner of the graph; resolves the types of submodules.

    Attributes:
        depth: operations on the longest path of any pattern.
        far: by rule, where it was first tried and came to nothing but its root, and why.
    """

    def __init__(self, rules: Sequence[RewriteRule], graph_module: fx.GraphModule) -> None:
        self._graph_module = graph_module
        self._filed: dict[object, list[int]] = {}
        self._rules = tuple(rules)
        self.depth = max((r.pattern.depth for r in self._rules), default=0)
        self._by_key: dict[object, tuple[RewriteRule, ...]] = {}
        self.far: dict[str, tuple[fx.Node, Mismatch]] = {}
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
        attempt = Attempt()
        if self._solve((Goal(rule.pattern, node), None), attempt):
            return Match(node, attempt.nodes, attempt.bindings, rule.name)
        if attempt.best_is_near or attempt.best_operations > 1:
            return attempt.best
        if attempt.best is not None:
            self.far.setdefault(rule.name, (node, attempt.best))
        return None

    def _solve(self, goals: Goals, attempt: Attempt) -> bool:
        """Match all goals, or leave ``attempt`` as it was, apart from the best reason."""
        if goals is None:
            return True
        goal, rest = goals
        mark = attempt.mark()
        if isinstance(goal.pattern, p.OneOf):
            alternatives = (goal._replace(pattern=a) for a in goal.pattern.alternatives)
            return any(self._solve((a, rest), attempt) for a in alternatives)
        for operands in self._enter(goal, attempt):
            if self._solve(_chain(operands, rest), attempt):
                return True
        attempt.reset(mark)
        return False

    def _enter(self, goal: Goal, attempt: Attempt) -> Iterator[Sequence[Goal]]:
        """Match the pattern itself; yield each list of goals that remains, none on failure."""
        if isinstance(goal.pattern, call_patterns.CallPattern):
            yield from self._enter_call(goal.pattern, goal, attempt)
        elif isinstance(goal.pattern, call_patterns.Condition):
            yield from _enter_condition(goal.pattern.call, goal.value, attempt)
        elif isinstance(goal.pattern, p.Seq):
            yield from _enter_sequence(goal.pattern, goal, attempt)
        elif _leaf(goal, attempt) and bind_name(goal, attempt):
            yield ()

    def _enter_call(
        self, pattern: call_patterns.CallPattern, goal: Goal, attempt: Attempt
    ) -> Iterator[Sequence[Goal]]:
        node = goal.value
        if not isinstance(node, fx.Node) or self.key(node) not in pattern.targets:
            found = self._named(node) if isinstance(node, fx.Node) else shown_as(node)
            attempt.fail(Mismatch("expected {0}, found {1}", pattern.expected(), found))
            return
        attempt.operations += 1
        if not bind_name(goal, attempt):
            return
        attempt.nodes.append(node)
        fault = _check_users(pattern, node)
        if fault is None:
            fault = _check_where(pattern, node)
        if fault is not None:
            attempt.fail(fault, near=True)
        elif not pattern.operands and not pattern.attributes:
            yield _condition(pattern, node)
        else:
            yield from self._arguments(pattern, node, attempt)

    def _arguments(
        self, pattern: call_patterns.CallPattern, node: fx.Node, attempt: Attempt
    ) -> Iterator[Sequence[Goal]]:
        """The goals that the operands and attributes are, in each order that may match."""
        module = self.submodule(node) if node.op == "call_module" else None
        given = arguments_of(node, module)
        attributes = _attributes(pattern, node, given, module, attempt)
        if attributes is None:
            return
        count = len(pattern.operands)
        if len(given.operands) < count:
            text = "{0}: expected {1} operands, has {2}"
            has = len(given.operands)
            attempt.fail(Mismatch(text, label_of(pattern, node), count, has, node=node), near=True)
            return
        for order in _orders(given.operands, count, swaps=pattern.swaps(node)):
            operands = [
                Goal(each, given.operands[i], ArgumentPlace(pattern, node, _name(given, i), i + 1))
                for each, i in zip(pattern.operands, order, strict=True)
            ]
            yield [*operands, *attributes, *_condition(pattern, node)]

    def _named(self, node: fx.Node) -> str:
        key = self.key(node)
        return p.target_name(key) if node.op.startswith("call_") else node.op


def _attributes(
    pattern: call_patterns.CallPattern,
    node: fx.Node,
    given: CallArguments,
    module: nn.Module | None,
    attempt: Attempt,
) -> list[Goal] | None:
    """The goals that the attributes are; None if one of them fails at first sight."""
    goals: list[Goal] = []
    for name, expected in pattern.attributes.items():
        if module is not None and hasattr(module, name):
            actual = getattr(module, name)
        elif name in given.named:
            actual = given.named[name]
        else:
            text = "{0}: has no attribute {1}"
            attempt.fail(Mismatch(text, label_of(pattern, node), name, node=node), near=True)
            return None
        place = ArgumentPlace(pattern, node, name, 0)
        if isinstance(expected, p.Const) and not accepts(expected, actual):
            attempt.fail(place.expected(expected, shown_as(actual)), near=True)
            return None
        goals.append(Goal(expected, actual, place))
    return goals


def _name(given: CallArguments, position: int) -> str:
    return given.names[position] if position < len(given.names) else ""


def _chain(goals: Sequence[Goal], rest: Goals) -> Goals:
    for goal in reversed(goals):
        rest = (goal, rest)
    return rest


def _enter_sequence(pattern: p.Seq, goal: Goal, attempt: Attempt) -> Iterator[Sequence[Goal]]:
    value = goal.value
    if isinstance(value, (list, tuple)) and len(value) == len(pattern.items):
        yield [Goal(each, item) for each, item in zip(pattern.items, value, strict=True)]
    else:
        has = f"a list of {len(value)}" if isinstance(value, (list, tuple)) else shown_as(value)
        misfit(goal, has, attempt)


def _leaf(goal: Goal, attempt: Attempt) -> bool:
    """Whether a pattern without operands matches its value."""
    pattern, value = goal.pattern, goal.value
    if isinstance(pattern, p.Const):
        return accepts(pattern, value) or misfit(goal, shown_as(value), attempt)
    if not isinstance(pattern, p.Attr) or isinstance(value, Tensor):
        return True
    if not isinstance(value, fx.Node) or value.op != "get_attr":
        return misfit(goal, shown_as(value), attempt)
    attempt.nodes.append(value)
    return True


def _orders(operands: Sequence[Literal], count: int, *, swaps: bool) -> Iterable[tuple[int, ...]]:
    """The places of the operands in each order that may match: as written first."""
    if not swaps or not count or len(operands) < 2:
        return (tuple(range(count)),)
    tail = tuple(range(2, count))
    return (chosen + tail for chosen in permutations((0, 1), min(count, 2)))


def _check_users(pattern: call_patterns.CallPattern, node: fx.Node) -> Mismatch | None:
    if pattern.users is None:
        return None
    # Every user reads at least once: too many users need no counting of reads.
    users = len(node.users)
    reads = users if users > pattern.users else count_reads(node)
    if reads == pattern.users:
        return None
    noun = "user" if pattern.users == 1 else "users"
    label = label_of(pattern, node)
    return Mismatch("{0}: expected {1} {2}, has {3}", label, pattern.users, noun, reads, node=node)


def _condition(pattern: call_patterns.CallPattern, node: fx.Node) -> list[Goal]:
    return [] if pattern.condition is None else [Goal(pattern.condition, node)]


def _enter_condition(
    pattern: call_patterns.CallPattern, node: fx.Node, attempt: Attempt
) -> Iterator[Sequence[Goal]]:
    so_far = Match(attempt.nodes[0], attempt.nodes, dict(attempt.bindings))
    where = cast(call_patterns.WhereMatched, pattern.where)
    fault = _refusal(pattern, node, where(node, so_far))
    if fault is None:
        yield ()
    else:
        attempt.fail(fault, near=True)


def _check_where(pattern: call_patterns.CallPattern, node: fx.Node) -> Mismatch | None:
    if pattern.where is None or pattern.condition is not None:
        return None
    where = cast("Callable[[fx.Node], bool | Mismatch]", pattern.where)
    return _refusal(pattern, node, where(node))


def _refusal(
    pattern: call_patterns.CallPattern, node: fx.Node, verdict: bool | Mismatch
) -> Mismatch | None:
    if isinstance(verdict, Mismatch):
        return verdict
    if verdict:
        return None
    name = getattr(pattern.where, "__name__", "where").strip("<>_")
    return Mismatch("{0}: refused by {1}", label_of(pattern, node), name, node=node)


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
