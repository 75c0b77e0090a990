"""What rules did to a graph, and where they nearly did something."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qfx.table import table


@dataclass(frozen=True)
class Event:
    """One rewrite.

    Attributes:
        rule: "pass/rule", or "pass" when no rule was at work.
        removed, added: names of the nodes that went and came.
        source: "file:line" of what was rewritten, or "".
        changed: names of the nodes that stayed, and read or do something else now.
    """

    rule: str
    removed: tuple[str, ...]
    added: tuple[str, ...]
    source: str = ""
    changed: tuple[str, ...] = ()

    @property
    def is_rewrite(self) -> bool:
        """Whether nodes came or went, rather than only changed."""
        return bool(self.removed or self.added)


@dataclass
class RuleStatistics:
    """What one rule was about in one pass.

    Attributes:
        rule: "pass/rule".
        attempts: at how many nodes it was tried: those whose operands say that it may come near.
        matches: how often its pattern matched.
        rewrites: how often it rewrote what matched.
        seconds: what trying and rewriting took.
    """

    rule: str
    attempts: int = 0
    matches: int = 0
    rewrites: int = 0
    seconds: float = 0.0


def rules_table(statistics: Iterable[RuleStatistics], *, timed: bool = True) -> str:
    """A table of rules, the slowest first: tried, matched, applied, and what that took.

    Without times, which differ from run to run, they stand by name.
    """
    rows = [
        (
            rule.rule,
            str(rule.attempts),
            str(rule.matches),
            str(rule.rewrites),
            f"{1e3 * rule.seconds:.1f}",
        )
        for rule in sorted(statistics, key=lambda r: (-r.seconds if timed else 0.0, r.rule))
    ]
    header = ("rule", "tried", "matched", "applied", "ms")
    shown = slice(None if timed else -1)
    return table(header[shown], [row[shown] for row in rows], right=header[1:])


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A rule that nearly applied, or that found nothing to try; holds no live node.

    Attributes:
        rule: "pass/rule".
        node: name of the node at the root of the attempt; "" where there was nothing to try.
        reason: why it did not.
        source: "file:line" of that node, or "".
    """

    rule: str
    node: str
    reason: str
    source: str = ""

    def __str__(self) -> str:
        at = f" at %{self.node}" if self.node else ""
        return f"{self.rule}{at}: {self.reason}{f'   # {self.source}' if self.source else ''}"
