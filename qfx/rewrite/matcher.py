"""Finds where patterns match, and remembers where they nearly did.

A node is only tried against rules that may come near it (:mod:`qfx.rewrite.index`). A match is
solved as a list of goals ``(pattern, value)`` with backtracking over the order of commutative
operands and over alternatives, so a choice that a later operand contradicts is taken back. The cost
of one attempt depends on the pattern, not on the graph.

A *near-miss* is an attempt that got past the root: it matched an operation below it, or it failed
on an argument that is no operation, a user count, a predicate or in the rule itself. Its reason is
what ``explain`` shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, fx, nn

from qfx.rewrite import call_patterns
from qfx.rewrite import pattern as p
from qfx.rewrite.arguments import CallArguments, arguments_of
from qfx.rewrite.attempt import ArgumentPlace, Attempt, Goals, accepts, label_of, shown_as
from qfx.rewrite.conditions import check_users, check_where, holds
from qfx.rewrite.index import PatternIndex
from qfx.rewrite.pattern import Literal, Mismatch, Pattern
from qfx.rewrite.rule import Match, RewriteRule
from qfx.vocab import is_op


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
        self._index = PatternIndex(rules, self.key)
        self.depth = max((rule.pattern.depth for rule in rules), default=0)
        self.far: dict[str, tuple[fx.Node, Mismatch]] = {}
        self._submodules: dict[str, nn.Module] = {}

    def rules_for(self, node: fx.Node) -> tuple[RewriteRule, ...]:
        """Rules that may match at ``node`` or nearly do, in order of precedence."""
        found, is_new = self._index.candidates(node)
        for rule in found.far if is_new else ():
            if rule.name not in self.far:
                self.match(rule, node)  # for the reason
        return found.near

    def key(self, node: fx.Node) -> object:
        """What rules at ``node`` are filed under."""
        if node.op == "call_module":
            return type(self.submodule(node))
        if node.op in ("call_function", "call_method"):
            return node.target
        return ("root", node.op)

    def untried(self) -> list[RewriteRule]:
        """Rules for whose root :meth:`rules_for` has not seen a node."""
        return self._index.untried()

    def submodule(self, node: fx.Node) -> nn.Module:
        """The module that a ``call_module`` node calls."""
        target = str(node.target)
        if target not in self._submodules:
            self._submodules[target] = self._graph_module.get_submodule(target)
        return self._submodules[target]

    def match(self, rule: RewriteRule, node: fx.Node) -> Match | Mismatch | None:
        """Try ``rule`` at ``node``: the match, the reason of a near-miss, or None."""
        attempt = Attempt()
        if self._solve((rule.pattern, node, None, None), attempt):
            return Match(node, attempt.nodes, attempt.bindings, rule.name)
        if attempt.best_is_near or attempt.best_operations > 1:
            return attempt.best
        if attempt.best is not None:
            self.far.setdefault(rule.name, (node, attempt.best))
        return None

    def _solve(self, goals: Goals, attempt: Attempt) -> bool:
        """Match all goals, one after the other; where there is a choice, what follows each of it.

        If they don't match, ``attempt`` is left as far as the last try came.
        """
        while goals is not None:
            pattern, value, place, rest = goals
            if isinstance(pattern, p.Any):
                if pattern.bind is not None and not attempt.bind(pattern.bind, value):
                    return False
                goals = rest
                continue
            if isinstance(pattern, call_patterns.CallPattern):
                ways = self._enter_call(pattern, value, rest, attempt)
            elif isinstance(pattern, p.OneOf):
                ways = [(each, value, place, rest) for each in pattern.alternatives]
            else:
                ways = self._enter(pattern, value, place, rest, attempt)
            if len(ways) != 1:
                return self._solve_any(ways, attempt)
            (goals,) = ways
        return True

    def _solve_any(self, ways: Sequence[Goals], attempt: Attempt) -> bool:
        """Match the first list of goals that does."""
        mark = attempt.mark()
        for goals in ways:
            if self._solve(goals, attempt):
                return True
            attempt.reset(mark)
        return False

    def _enter(
        self,
        pattern: Pattern,
        value: Literal,
        place: ArgumentPlace | None,
        rest: Goals,
        attempt: Attempt,
    ) -> Sequence[Goals]:
        """Match a pattern that is neither; the goals that remain, nothing on failure."""
        if isinstance(pattern, call_patterns.Condition):
            return (rest,) if holds(pattern.call, value, attempt) else ()
        if isinstance(pattern, p.Seq):
            if isinstance(value, (list, tuple)) and len(value) == len(pattern.items):
                return (_chain(zip(pattern.items, value, strict=True), rest),)
            has = f"a list of {len(value)}" if isinstance(value, (list, tuple)) else shown_as(value)
            return self._misfit(pattern, place, has, attempt)
        if isinstance(pattern, p.Const) and not accepts(pattern, value):
            return self._misfit(pattern, place, shown_as(value), attempt)
        if isinstance(pattern, p.Attr) and not isinstance(value, Tensor):
            if not isinstance(value, fx.Node) or value.op != "get_attr":
                return self._misfit(pattern, place, shown_as(value), attempt)
            attempt.nodes.append(value)
        return (rest,) if pattern.bind is None or attempt.bind(pattern.bind, value) else ()

    def _enter_call(
        self, pattern: call_patterns.CallPattern, node: Literal, rest: Goals, attempt: Attempt
    ) -> Sequence[Goals]:
        """Match what is called; the goals that its arguments are, in each order that may match."""
        if not isinstance(node, fx.Node) or self.key(node) not in pattern.targets:
            found = self._named(node) if isinstance(node, fx.Node) else shown_as(node)
            attempt.fail(Mismatch("expected {0}, found {1}", pattern.expected, found))
            return ()
        attempt.operations += 1
        if pattern.bind is not None and not attempt.bind(pattern.bind, node):
            return ()
        attempt.nodes.append(node)
        fault = check_users(pattern, node)
        if fault is None:
            fault = check_where(pattern, node)
        if fault is not None:
            attempt.fail(fault, near=True)
            return ()
        if pattern.condition is not None:
            rest = (pattern.condition, node, None, rest)
        if not pattern.operands and not pattern.attributes:
            return (rest,)
        return self._arguments(pattern, node, rest, attempt)

    def _arguments(
        self, pattern: call_patterns.CallPattern, node: fx.Node, rest: Goals, attempt: Attempt
    ) -> Sequence[Goals]:
        operands: Sequence[Literal] = node.args
        if pattern.attributes or len(operands) < pattern.reach or not is_op(node):
            module = self.submodule(node) if node.op == "call_module" else None
            given = arguments_of(node, module)
            operands = given.operands
            attributes = _attributes(pattern, node, given, module, attempt)
            if attributes is None:
                return ()
            for name, wanted, value in reversed(attributes):
                rest = (wanted, value, (pattern, node, name), rest)
        count = len(pattern.operands)
        if len(operands) < count:
            text = "{0}: expected {1} operands, has {2}"
            label = label_of(pattern, node)
            fault = Mismatch(text, label, count, len(operands), node=node)
            attempt.fail(fault, near=True)
            return ()
        swaps = count > 0 and len(operands) > 1 and pattern.may_swap and pattern.swaps(node)
        as_written = range(count)
        if not swaps:
            return (_operands(pattern, node, operands, as_written, rest),)
        swapped = (1, 0, *as_written[2:])[:count]
        return [_operands(pattern, node, operands, o, rest) for o in (as_written, swapped)]

    def _misfit(
        self, pattern: Pattern, place: ArgumentPlace | None, shown: str, attempt: Attempt
    ) -> tuple[()]:
        """Fail because of an argument that is no operation."""
        if place is None:
            attempt.fail(Mismatch("expected {0}, found {1}", pattern, shown))
            return ()
        call, node, at = place
        label, name = label_of(call, node), at if isinstance(at, str) else self._name(node, at)
        if isinstance(pattern, p.Const) and name:
            text, role = "{0}: expected {1}={2}, is {3}", name
        else:
            text, role = "{0}: expected {1} to be {2}, is {3}", name or f"operand {int(at) + 1}"
        attempt.fail(Mismatch(text, label, role, pattern, shown, node=node), near=True)
        return ()

    def _name(self, node: fx.Node, position: int) -> str:
        """The parameter that an operand is given for, "" if it has no name."""
        module = self.submodule(node) if node.op == "call_module" else None
        names = arguments_of(node, module).names
        return names[position] if position < len(names) else ""

    def _named(self, node: fx.Node) -> str:
        key = self.key(node)
        return p.sought_name(key) if node.op.startswith("call_") else node.op


def _attributes(
    pattern: call_patterns.CallPattern,
    node: fx.Node,
    given: CallArguments,
    module: nn.Module | None,
    attempt: Attempt,
) -> list[tuple[str, Pattern, Literal]] | None:
    """The attributes, by name, and what they are to match; None if one fails at first sight."""
    found: list[tuple[str, Pattern, Literal]] = []
    for name, wanted in pattern.attributes.items():
        if module is not None and hasattr(module, name):
            actual = getattr(module, name)
        elif name in given.named:
            actual = given.named[name]
        else:
            text = "{0}: has no attribute {1}"
            attempt.fail(Mismatch(text, label_of(pattern, node), name, node=node), near=True)
            return None
        if isinstance(wanted, p.Const) and not accepts(wanted, actual):
            text, label = "{0}: expected {1}={2}, is {3}", label_of(pattern, node)
            fault = Mismatch(text, label, name, wanted, shown_as(actual), node=node)
            attempt.fail(fault, near=True)
            return None
        found.append((name, wanted, actual))
    return found


def _chain(goals: Iterable[tuple[Pattern, Literal]], rest: Goals) -> Goals:
    for pattern, value in reversed(list(goals)):
        rest = (pattern, value, None, rest)
    return rest


def _operands(
    pattern: call_patterns.CallPattern,
    node: fx.Node,
    operands: Sequence[Literal],
    order: Sequence[int],
    rest: Goals,
) -> Goals:
    """The goals that operands are, in an order, in front of the others."""
    for at in range(len(order) - 1, -1, -1):
        position = order[at]
        rest = (pattern.operands[at], operands[position], (pattern, node, position), rest)
    return rest
