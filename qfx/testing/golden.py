"""Golden IR inside the test that it belongs to, and how it is rewritten.

    pytest --update-golden tests/passes/fusion/test_fuse_post_ops.py

writes what the passes really make into the ``after="..."`` of each ``check`` that fails.
"""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path


def normal(text: str) -> str:
    """Golden text as compared: without indentation, blank lines and trailing spaces."""
    lines = textwrap.dedent(text).strip("\n").rstrip().splitlines()
    return "\n".join(line.rstrip() for line in lines)


class Updates:
    """New golden texts, by file and place; written at the end, when all places are known.

    Attributes:
        enabled: whether checks collect texts here in place of failing.
    """

    def __init__(self) -> None:
        self.enabled = False
        self._pending: dict[Path, dict[tuple[int, int, int, int], str]] = {}

    def add(self, path: str, line: int, keyword: str, text: str) -> None:
        """Put ``text`` in place of the string argument ``keyword`` of the call at ``line``."""
        file = Path(path)
        source = file.read_text()
        value = find_argument(ast.parse(source), line, keyword)
        if value is None:
            raise AssertionError(f"{path}:{line} has no literal {keyword}=... to rewrite")
        start = source.splitlines()[value.lineno - 1]
        margin = " " * (len(start) - len(start.lstrip()) + 4)
        quoted = '"""\n' + textwrap.indent(text, margin) + f"\n{margin[4:]}" + '"""'
        where = (value.lineno, value.col_offset, value.end_lineno or 0, value.end_col_offset or 0)
        self._pending.setdefault(file, {})[where] = quoted

    def write(self) -> None:
        """Write what was collected; last line first, so that earlier ones keep theirs."""
        for file, changes in self._pending.items():
            lines = file.read_text().splitlines(keepends=True)
            for (top, left, bottom, right), text in sorted(changes.items(), reverse=True):
                head, tail = lines[top - 1][:left], lines[bottom - 1][right:]
                lines[top - 1 : bottom] = [head + text + tail]
            file.write_text("".join(lines))
        self._pending.clear()


updates = Updates()
"""Those of this process."""


def find_argument(tree: ast.AST, line: int, keyword: str) -> ast.Constant | None:
    """The literal string passed as ``keyword`` in the innermost call that spans ``line``."""
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and n.lineno <= line]
    spanning = [c for c in calls if (c.end_lineno or 0) >= line]
    for call in sorted(spanning, key=lambda c: (c.end_lineno or 0) - c.lineno):
        for given in call.keywords:
            if given.arg == keyword and isinstance(given.value, ast.Constant):
                return given.value
    return None
