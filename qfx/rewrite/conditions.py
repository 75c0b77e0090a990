"""What a pattern asks of a node besides its arguments: how often it is read, and predicates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

from torch import fx

from qfx.rewrite.attempt import Attempt, label_of
from qfx.rewrite.call_patterns import CallPattern, WhereMatched
from qfx.rewrite.pattern import Literal, Mismatch
from qfx.rewrite.rule import Match


def check_users(pattern: CallPattern, node: fx.Node) -> Mismatch | None:
    """Why ``node`` is read more or less often than the pattern says; None if it is not."""
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


def holds(pattern: CallPattern, node: fx.Node, attempt: Attempt) -> bool:
    """Whether the predicate that asks for the match holds."""
    so_far = Match(attempt.nodes[0], attempt.nodes, dict(attempt.bindings))
    where = cast(WhereMatched, pattern.where)
    fault = _refusal(pattern, node, where(node, so_far))
    return fault is None or attempt.fail(fault, near=True)


def check_where(pattern: CallPattern, node: fx.Node) -> Mismatch | None:
    """What the predicate of the node alone has against it; None if nothing."""
    if pattern.where is None or pattern.condition is not None:
        return None
    where = cast("Callable[[fx.Node], bool | Mismatch]", pattern.where)
    return _refusal(pattern, node, where(node))


def _refusal(pattern: CallPattern, node: fx.Node, verdict: bool | Mismatch) -> Mismatch | None:
    if isinstance(verdict, Mismatch):
        return verdict
    if verdict:
        return None
    name = getattr(pattern.where, "__name__", "where").strip("<>_")
    label = label_of(pattern, node)
    if verdict is False:
        return Mismatch("{0}: refused by {1}", label, name, node=node)
    return Mismatch(
        "{0}: refused by {1}, which returned {2}", label, name, repr(verdict), node=node
    )


def count_reads(node: fx.Node) -> int:
    """How many arguments of other nodes are ``node``; a user that reads it twice counts twice."""
    return sum(_reads(user.args, node) + _reads(user.kwargs.values(), node) for user in node.users)


def _reads(arguments: Iterable[Literal], node: fx.Node) -> int:
    reads = 0
    for each in arguments:
        if each is node:
            reads += 1
        elif isinstance(each, (tuple, list)):
            reads += _reads(each, node)
        elif isinstance(each, dict):
            reads += _reads(each.values(), node)
        elif isinstance(each, slice):
            reads += _reads((each.start, each.stop, each.step), node)
    return reads
