"""How large the parts of the house may be; with ``-s`` the counts are printed."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median

from tests.support.sources import ROOT, SOURCES, nodes, tree

LONGEST_FILE = 320
LONGEST_TEST_FILE = 400
MEDIAN_PASS_FILE = 120
LONGEST_RULE = 12


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def is_pass(statement: ast.stmt) -> bool:
    """Whether a class is a pass that has a name."""
    if not isinstance(statement, ast.ClassDef):
        return False
    bases = {ast.unparse(base) for base in statement.bases}
    names = (ast.unparse(s.targets[0]) for s in statement.body if isinstance(s, ast.Assign))
    return not bases.isdisjoint({"Pass", "PatternPass"}) and "name" in names


def pass_files() -> list[Path]:
    """The files that define a pass; what it uses stands in others."""
    return [path for path in SOURCES if any(map(is_pass, tree(path).body))]


def rules() -> dict[str, int]:
    """The lines of each rewrite rule, from its ``def`` to its end."""
    functions = [n for path in SOURCES for n in nodes(path) if isinstance(n, ast.FunctionDef)]
    return {
        each.name: (each.end_lineno or each.lineno) - each.lineno + 1
        for each in functions
        if any(ast.unparse(d).startswith("rewrite(") for d in each.decorator_list)
    }


def longest(counts: dict[str, int]) -> tuple[int, str]:
    return max((count, name) for name, count in counts.items())


def test_sources() -> None:
    counts = {str(path.relative_to(ROOT)): lines(path) for path in SOURCES}
    print(f"\n{len(counts)} files, {sum(counts.values())} lines, longest {longest(counts)}")
    assert {name: n for name, n in counts.items() if n > LONGEST_FILE} == {}


def test_test_files() -> None:
    paths = (ROOT / "tests").rglob("*.py")
    counts = {str(path.relative_to(ROOT)): lines(path) for path in paths}
    print(f"\n{len(counts)} test files, {sum(counts.values())} lines, longest {longest(counts)}")
    assert {name: n for name, n in counts.items() if n > LONGEST_TEST_FILE} == {}


def test_files_of_passes() -> None:
    counts = {path.stem: lines(path) for path in pass_files() if "qfx_passes" in path.parts}
    middle = median(counts.values())
    print(f"\n{len(counts)} files of passes, median {middle:g}, longest {longest(counts)}")
    assert {"fuse_conv_bn", "annotate", "lower", "canonicalize"} < counts.keys()
    assert middle <= MEDIAN_PASS_FILE


def test_each_pass_has_a_test_file_named_like_it() -> None:
    tested = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert [path.stem for path in pass_files() if f"test_{path.stem}" not in tested] == []


def test_rules() -> None:
    counts = rules()
    print(f"\n{len(counts)} rules, longest {longest(counts)}")
    assert "fuse_activation" in counts
    assert longest(counts)[0] <= LONGEST_RULE
