"""The sources of the house, parsed once for all tests that read them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import qfx

ROOT = Path(qfx.__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("qfx/**/*.py"), *ROOT.glob("passes/qfx_passes/**/*.py")])


@cache
def tree(path: Path) -> ast.Module:
    """What a file says."""
    return ast.parse(path.read_text())


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All that a file is made of."""
    return tuple(ast.walk(tree(path)))
