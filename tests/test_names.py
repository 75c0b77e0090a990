"""One word means one thing: no two classes of the house have a name in common."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator

from tests.support.sources import SOURCES, nodes, tree

_ALIAS = re.compile(r"[A-Z][a-z]\w*")


def aliases(module: ast.Module) -> Iterator[str]:
    """The public names that types are given at module level."""
    for statement in module.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if "TypeAlias" in ast.unparse(statement.annotation):
                yield statement.target.id
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            yield statement.targets[0].id


def test_no_two_classes_have_a_name_in_common() -> None:
    classes = Counter(n.name for s in SOURCES for n in nodes(s) if isinstance(n, ast.ClassDef))
    assert [name for name, count in classes.items() if count > 1] == []


def test_no_alias_of_a_type_is_called_like_a_class() -> None:
    classes = {n.name for s in SOURCES for n in nodes(s) if isinstance(n, ast.ClassDef)}
    named = {name for source in SOURCES for name in aliases(tree(source)) if _ALIAS.match(name)}
    assert len(named) > 50
    assert sorted(named & classes) == []
