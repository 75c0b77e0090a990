"""Trying one pattern at one node."""

from qfx.rewrite import (
    Match,
    Matcher,
    Mismatch,
    Pattern,
    RewriteRule,
)
from tests.rewrite.graphs import GraphBuilder


def attempt(pattern: Pattern, builder: GraphBuilder, node) -> Match | Mismatch | None:
    rule = RewriteRule(pattern, lambda match, rw: match.root, "rule")
    graph_module = builder.done(node)
    matcher = Matcher((rule,), graph_module)
    return matcher.match(rule, node) if rule in matcher.rules_for(node) else None
