"""The rooms of the house stand on floors: each imports what is below it, never what is above.

Every import statement counts: at module level, for type checkers, and in functions, which don't
hide an arrow up; and what those at module level lead to.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

from tests.support.sources import nodes, tree

ROOT = Path(__file__).resolve().parents[1]

FLOORS = (
    (
        *("errors", "stubs", "table", "library", "version"),
        *("caller_modes", "garbage_collection", "thread_switching"),
    ),
    ("torch_private", "private_attributes", "plug_ins"),
    ("semantics",),
    ("vocab",),
    ("graph",),
    ("capture",),
    ("history",),
    ("rewrite",),
    ("framework",),
    ("quant",),
    ("backends", "ops"),
    ("configuration",),
    ("report",),
    ("runtime",),
    ("training",),
    ("integrations", "numerics"),
    ("verification",),
    ("export",),
    ("qfx_passes",),
    ("argument_checks", "pipelines", "storage", "preparation", "conversion"),
    ("engines", "regional"),
    ("api", "custom_passes", "keeping"),
    ("testing", "tuning"),
    ("qfx",),
)
"""From the ground up; rooms of one floor know nothing of each other."""

BACKEND_FLOORS = (
    ("schemes",),
    ("table_checks", "base", "entry_points", "saturation", "packing_engine", "defaults"),
    ("fitting", "probing", "wide_codes"),
    ("stored_weights",),
    ("onednn",),
    ("hardware",),
    ("detection",),
    ("quantized",),
    ("x86", "fbgemm", "qnnpack", "reference", "xnnpack", "auto"),
)
"""The same within ``qfx/backends``, but for neighbours: a table and its checks are two of them."""


@cache
def sources() -> dict[str, Path]:
    """Every module of qfx and qfx_passes, by its dotted name."""
    found = {}
    for top in (ROOT, ROOT / "passes"):
        for package in ("qfx", "qfx_passes"):
            for path in (top / package).rglob("*.py"):
                parts = path.relative_to(top).with_suffix("").parts
                found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported(statement: ast.AST) -> Iterator[str]:
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    if isinstance(statement, ast.ImportFrom):
        assert statement.module, "a relative import, which is not followed here"
        assert not statement.level
        for alias in statement.names:
            name = f"{statement.module}.{alias.name}"
            yield name if name in sources() else statement.module


BY_NAME = {
    ("qfx.framework.registry", "qfx_passes"): "our passes are loaded as those of others are",
}
"""What is imported by a name in a string, which no arrow tells."""


def imported_by_name(module: str) -> Iterator[str]:
    """The modules of the house that ``module`` imports by their names."""
    for node in nodes(sources()[module]):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if isinstance(name, str) and name in sources():
                yield name


def statements(body: ast.AST) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported, and those for type checkers."""
    for child in ast.iter_child_nodes(body):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.stmt):
            yield child
        yield from statements(child)


@cache
def imports(module: str, *, anywhere: bool = False) -> frozenset[str]:
    """The modules of the house that ``module`` imports, in functions too with ``anywhere``."""
    found = nodes(sources()[module]) if anywhere else statements(tree(sources()[module]))
    names = {name for statement in found for name in imported(statement)}
    return frozenset(names & sources().keys())


def room(module: str, depth: int = 1) -> str:
    parts = module.split(".")
    if parts[0] == "qfx_passes":
        return parts[0]
    return parts[depth] if len(parts) > depth else parts[-1]


def upward(floors: tuple[tuple[str, ...], ...], within: str = "") -> list[str]:
    """The imports that lead up, or from a room of the house to a neighbour on its floor."""
    depth, neighbours = (2, 1) if within else (1, 0)
    level = {name: height for height, floor in enumerate(floors) for name in floor}
    wrong = []
    for module in filter(lambda name: name.startswith(within), sorted(sources())):
        for other in filter(
            lambda name: name.startswith(within), sorted(imports(module, anywhere=True))
        ):
            here, there = room(module, depth), room(other, depth)
            if here != there and level[there] >= level[here] + neighbours:
                wrong.append(f"{module} imports {other}")
    return wrong


def test_every_room_has_a_floor() -> None:
    rooms = {room(module) for module in sources()}
    assert rooms == {name for floor in FLOORS for name in floor}


def test_nothing_leads_up() -> None:
    assert len(sources()) > 200
    assert upward(FLOORS) == []


def test_nothing_leads_up_among_backends() -> None:
    assert upward(BACKEND_FLOORS, "qfx.backends.") == []


def test_no_room_leads_to_itself_by_way_of_others() -> None:
    graph = nx.DiGraph((room(m), room(other)) for m in sources() for other in imports(m))
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    assert [sorted(c) for c in nx.strongly_connected_components(graph) if len(c) > 1] == []


def test_an_arrow_up_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(module: str, *, anywhere: bool) -> frozenset[str]:
        return frozenset({"qfx.report.sites"} if module == "qfx.graph.meta" else ())

    monkeypatch.setattr(f"{__name__}.imports", planted)
    assert upward(FLOORS) == ["qfx.graph.meta imports qfx.report.sites"]


def test_an_import_in_a_function_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "meta.py"
    path.write_text("def f():\n    from qfx import api\n")
    monkeypatch.setitem(sources(), "qfx.graph.planted", path)
    assert upward(FLOORS) == ["qfx.graph.planted imports qfx.api"]


def test_what_is_imported_by_name_is_known() -> None:
    found = {(module, name) for module in sources() for name in imported_by_name(module)}
    assert found == BY_NAME.keys()


def test_contributing_shows_every_room() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    missing = [name for floor in FLOORS[:-1] for name in floor if f"`{name}" not in text]
    assert missing == []


def test_each_room_has_tests_of_its_name() -> None:
    rooms = {path.parent.name for path in ROOT.glob("qfx/*/__init__.py")}
    assert rooms - {path.parent.name for path in ROOT.glob("tests/*/test_*.py")} == set()
