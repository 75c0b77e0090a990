"""Patterns, matching and rewriting of fx graphs; knows nothing of quantization."""

from qfx.rewrite.call_patterns import Module, Op
from qfx.rewrite.driver import drive
from qfx.rewrite.matcher import Matcher
from qfx.rewrite.pattern import Any, Attr, Const, Mismatch, OneOf, Pattern
from qfx.rewrite.rewriter import Rewriter
from qfx.rewrite.rule import Match, RewriteRule, rewrite
from qfx.rewrite.surroundings import Analysis

__all__ = [
    "Analysis",
    "Any",
    "Attr",
    "Const",
    "Match",
    "Matcher",
    "Mismatch",
    "Module",
    "OneOf",
    "Op",
    "Pattern",
    "RewriteRule",
    "Rewriter",
    "drive",
    "rewrite",
]
