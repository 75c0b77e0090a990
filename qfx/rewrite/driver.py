"""Drives rules to a fixpoint: one sweep in graph order, then only what a rewrite may have changed.

A rewrite can enable rules at the nodes it made, at readers up to the depth of the deepest pattern
below, and near nodes that lost a reader (``users=1`` may hold now). Those are queued again, in
graph order. Walking to the readers of a node that very many nodes read would make the whole
quadratic, so such hubs are not walked; one more sweep at the end makes up for it.

A loop is told from progress by generations: a node made by a rewrite that does not shrink the graph
is one generation older than what it was made from. More generations than the graph had nodes to
begin with cannot be progress.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from functools import cached_property
from time import perf_counter

from torch import fx

from qfx.errors import PatternError
from qfx.garbage_collection import patiently
from qfx.graph import meta
from qfx.graph.effects import overwrites
from qfx.graph.memory import Memory
from qfx.history.events import NearMiss, RuleStatistics
from qfx.private_attributes import is_erased
from qfx.rewrite.idle import idle
from qfx.rewrite.matcher import Matcher
from qfx.rewrite.pattern import Mismatch
from qfx.rewrite.replacement import Replacement
from qfx.rewrite.rewriter import Rewriter
from qfx.rewrite.rule import Match, RewriteRule

_HUB = 32
_SLACK = 100


class _Worklist:
    """Nodes to visit, in graph order, each at most once while it waits."""

    def __init__(self, nodes: Iterable[fx.Node]) -> None:
        self._ahead = list(nodes)
        self._waiting = set(self._ahead)
        self._ahead.reverse()  # the next one comes last
        self._queued: list[fx.Node] = []  # a heap, which few ever are in

    def push(self, node: fx.Node) -> None:
        if node not in self._waiting:
            self._waiting.add(node)
            heapq.heappush(self._queued, node)

    def pop(self) -> fx.Node | None:
        ahead, queued = self._ahead, self._queued
        if queued and (not ahead or queued[0] < ahead[-1]):
            node = heapq.heappop(queued)
        elif ahead:
            node = ahead.pop()
        else:
            return None
        self._waiting.discard(node)
        return node


class _Driver:
    def __init__(self, rules: Sequence[RewriteRule], rewriter: Rewriter) -> None:
        self.rewriter = rewriter
        self.matcher = Matcher(rules, rewriter.graph_module)
        self.near_misses: dict[tuple[str, fx.Node], Mismatch] = {}
        known = rewriter.statistics
        self.statistics = {
            rule.name: known.setdefault(rule.name, RuleStatistics(self._name(rule.name)))
            for rule in rules
        }
        self.generation: dict[fx.Node, int] = {}
        self.limit = len(rewriter.graph.nodes) + _SLACK
        self.skipped_hub = False
        self.rewrites = 0

    @cached_property
    def memory(self) -> Memory | None:
        """Who may write to what, asked for by the first match; None as long as nothing writes."""
        graph = self.rewriter.graph
        return Memory(graph) if any(overwrites(node) for node in graph.nodes) else None

    def _learn(self, node: fx.Node) -> None:
        """Keep up with a node that the last rewrite touched."""
        if self.memory is not None:
            self.memory.learn(node)
        elif overwrites(node):
            self.memory = Memory(self.rewriter.graph)

    def run(self) -> None:
        while self._sweep() and self.skipped_hub:
            self.skipped_hub = False

    def _sweep(self) -> bool:
        """Visit every node and what rewrites queue; whether anything was rewritten."""
        before = self.rewrites
        worklist = _Worklist(self.rewriter.graph.nodes)
        while (node := worklist.pop()) is not None:
            while not is_erased(node) and self._rewrite_at(node):
                self._requeue(worklist)
        return self.rewrites > before

    def _rewrite_at(self, node: fx.Node) -> bool:
        """Apply the first rule that does at ``node``."""
        for rule in self.matcher.rules_for(node):
            counted = self.statistics[rule.name]
            counted.attempts += 1
            began = perf_counter()
            applied = self._try(rule, node, counted)
            counted.seconds += perf_counter() - began
            if applied:
                return True
        return False

    def _try(self, rule: RewriteRule, node: fx.Node, counted: RuleStatistics) -> bool:
        """Apply ``rule`` at ``node`` if it does; keep the reason of a near-miss."""
        try:
            found = self.matcher.match(rule, node)
        except Exception:  # of a predicate
            self.rewriter.blame(rule.name, node)
            raise
        if found is None:
            return False
        if isinstance(found, Match):
            counted.matches += 1
            found = self._apply(rule, found)
            if found is None:
                counted.rewrites += 1
                return True
        self.near_misses[rule.name, node] = found
        return False

    def misses(self) -> list[NearMiss]:
        """The last near-miss of each rule at each node that is left, then the rules never tried.

        A rule that came near nothing has the first place where it was tried.
        """
        misses = {**self._first_tries(), **self.near_misses}
        kept = [
            (name, node, why)
            for (name, node), why in misses.items()
            # not at its own results
            if not is_erased(node) and meta.rule_of(node) != self._name(name)
        ]
        found = [
            NearMiss(self._name(name), node.name, why.reason, meta.source(node))
            for name, node, why in sorted(kept, key=lambda each: each[1])
        ]
        untried = ((self._name(rule.name), rule) for rule in self.matcher.untried())
        return [*found, *idle(untried, self.rewriter.graph_module)]

    def _first_tries(self) -> dict[tuple[str, fx.Node], Mismatch]:
        """Where rules that came near nothing were first tried, and why not."""
        near = {name for name, _ in self.near_misses}
        return {
            (name, node): why
            for name, (node, why) in self.matcher.far.items()
            if name not in near and not self.statistics[name].rewrites
        }

    def _name(self, rule: str) -> str:
        return f"{self.rewriter.pass_name}/{rule}"

    def _apply(self, rule: RewriteRule, match: Match) -> Mismatch | None:
        """Let ``rule`` rewrite ``match``; None, or why it would not."""
        root, rewriter = match.root, self.rewriter
        size = len(rewriter.graph.nodes)
        replacement = None if self.memory is None else Replacement(match, self.memory)
        with rewriter.applying(rule.name, match):
            result = rule(match, rewriter)
            if isinstance(result, Mismatch):
                rewriter.rollback()
                return result
            if not isinstance(result, fx.Node):
                raise PatternError(
                    f"rule {rule.name} returned {type(result).__name__} at {meta.where(root)}; "
                    'a rule returns the node that replaces the root, or Mismatch("why not")'
                )
            if is_erased(result) or result.graph is not rewriter.graph:
                raise PatternError(
                    f"rule {rule.name} returned %{result.name} at {meta.where(root)}, which "
                    f"{'has been erased' if is_erased(result) else 'belongs to another graph'}; "
                    "return a node that `rw.call` made, or one that the match reads"
                )
            if result is root:
                raise PatternError(
                    f"rule {rule.name} returned the root of the match, {meta.where(root)}, as its "
                    'own replacement; return a new node, or Mismatch("nothing to do")'
                )
            late = None if replacement is None else replacement.refusal(result, rewriter.fresh)
            if late is not None and rewriter.has_mutated:
                raise PatternError(
                    f"rule {rule.name} at {meta.where(root)}: {late.reason}. Create it where that "
                    "is read now, `with rw.at(node):`, or leave the replacing to the driver"
                )
            if late is not None:
                rewriter.rollback()
                return late
            if not is_erased(root):
                rewriter.replace(root, result)
            for node in rewriter.touched:
                if not is_erased(node):
                    self._learn(node)
        self.rewrites += 1
        try:
            self._age(rule, match, grew=len(rewriter.graph.nodes) >= size)
        except PatternError:
            rewriter.blame(rule.name, root)
            raise
        return None

    def _age(self, rule: RewriteRule, match: Match, *, grew: bool) -> None:
        oldest = max((self.generation.get(n, 0) for n in match.nodes), default=0) + grew
        if oldest > self.limit:
            raise PatternError(
                f"rule {rule.name} of pass {self.rewriter.pass_name} does not terminate: after "
                f"{self.rewrites} rewrites it still matches what it makes, at "
                f"{meta.where(match.root)}. Let it return a Mismatch when there is nothing to gain."
            )
        for node in self.rewriter.touched:
            if not is_erased(node) and node not in self.generation:
                self.generation[node] = oldest
        self.generation[match.root] = oldest  # it stays where what replaces it reads it

    def _requeue(self, worklist: _Worklist) -> None:
        """Queue what the last rewrite may have enabled, to the depth of the rules."""
        layer = dict.fromkeys(n for n in self.rewriter.touched if not is_erased(n))
        seen = set(layer)
        for _ in range(max(self.matcher.depth, 1)):
            below: dict[fx.Node, None] = {}
            for node in layer:
                worklist.push(node)
                if len(node.users) > _HUB:
                    self.skipped_hub = True
                    continue
                below.update((u, None) for u in node.users if u not in seen)
            seen.update(below)
            layer = below


@patiently
def drive(rules: Sequence[RewriteRule], rewriter: Rewriter) -> list[NearMiss]:
    """Apply ``rules`` until none applies; at one node the earlier rule goes first.

    Args:
        rules: the rules.
        rewriter: the gate to the graph.

    Returns:
        The last near-miss of each rule at each node that still exists, in graph order, and the
        rules whose operation is nowhere in the graph.

    Raises:
        PatternError: a rule does not terminate, or returns neither a node nor a Mismatch.
    """
    driver = _Driver(rules, rewriter)
    driver.run()
    return driver.misses()
