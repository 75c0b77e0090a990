"""Patterns, matching and rewriting of fx graphs; knows nothing of quantization."""

from qfx.rewrite.driver import drive
from qfx.rewrite.matcher import Matcher
from qfx.rewrite.pattern import Any, Attr, Const, Mismatch, Module, OneOf, Op, Pattern
from qfx.rewrite.rewriter import Rewriter
from qfx.rewrite.rule import Match, RewriteRule, rewrite

__all__ = [
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
