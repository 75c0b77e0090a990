"""Patterns, matching and rewriting of fx graphs; knows nothing of quantization."""

from qfx.rewrite.driver import drive
from qfx.rewrite.matcher import Matcher
from qfx.rewrite.pattern import Any, Attr, Const, Mismatch, Module, OneOf, Op, Pattern
from qfx.rewrite.rewriter import Event, Rewriter
from qfx.rewrite.rule import Match, NearMiss, RewriteRule, rewrite

__all__ = [
    "Any",
    "Attr",
    "Const",
    "Event",
    "Match",
    "Matcher",
    "Mismatch",
    "Module",
    "NearMiss",
    "OneOf",
    "Op",
    "Pattern",
    "RewriteRule",
    "Rewriter",
    "drive",
    "rewrite",
]
