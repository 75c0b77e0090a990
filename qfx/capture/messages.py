"""Text that only people read: messages of asserts, warnings, logs and errors.

What goes into such a text decides nothing. Any other text may be the key under which a model looks
something up, so what it shows of sizes is guarded.
"""

from __future__ import annotations

import ast
import linecache
from functools import cache
from types import CodeType, FrameType

from qfx.graph import source

_TELLING = frozenset(
    (
        *("print", "warn", "warning", "warning_once", "warning_advice", "debug", "info", "error"),
        *("info_once", "exception", "critical", "log", "write"),
        *("_assert", "_check", "_check_value", "_check_type", "_check_index", "_check_with"),
        *("torch_assert", "assert_async", "_assert_async"),
    )
)
"""Functions and methods that show text to people."""

_MODULES = frozenset(("logging", "warnings", "traceback"))


def tells_people(frame: FrameType | None, stop: CodeType) -> bool:
    """Whether the text that is made at ``frame`` is only shown; frames beyond ``stop`` don't count.

    Known from the source: false where there is none.
    """
    while frame is not None and frame.f_code is not stop:
        module = str(frame.f_globals.get("__name__"))
        if module.partition(".")[0] in _MODULES:
            return True
        if source.is_outside(frame.f_code.co_filename):
            return frame.f_lineno in _telling_lines(frame.f_code.co_filename)
        frame = frame.f_back
    return False


@cache
def _telling_lines(filename: str) -> frozenset[int]:
    """The lines of a file that hold parts of statements that only show text."""
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except SyntaxError:
        return frozenset()
    nodes = list(ast.walk(tree))
    telling = [node for node in nodes if isinstance(node, ast.stmt) and _tells(node)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    written = [each for function in functions for each in _only_told(function)]
    return frozenset(line for node in (*telling, *written) for line in _lines(node))


def _lines(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _only_told(function: ast.FunctionDef) -> list[ast.stmt]:
    """The assignments to names that nothing but statements that show text reads."""
    shown = [n for n in ast.walk(function) if isinstance(n, (ast.Raise, ast.Expr)) and _tells(n)]
    told = {id(name) for statement in shown for name in ast.walk(statement)}
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    read = {n.id for n in names if isinstance(n.ctx, ast.Load)}
    elsewhere = {n.id for n in names if isinstance(n.ctx, ast.Load) and id(n) not in told}
    return [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        and all(isinstance(each, ast.Name) for each in node.targets)
        and {each.id for each in node.targets if isinstance(each, ast.Name)} <= read - elsewhere
    ]


def _tells(statement: ast.stmt) -> bool:
    if isinstance(statement, (ast.Raise, ast.Assert)):
        return True
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
        return False
    called = statement.value.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in _TELLING
