"""Why a rule was never tried: nothing in the graph is what its pattern is rooted at.

Where such an operation stands as it was written, that node is named, with the reason that
canonicalization noted at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import fx

from qfx.graph import meta
from qfx.graph.text import target_name
from qfx.history.events import NearMiss
from qfx.rewrite.pattern import sought_name
from qfx.rewrite.rule import RewriteRule
from qfx.vocab import OpDef

_LEVELS = (
    ": canonical operations come with the pass canonicalize, and lower replaces them by kernels"
)


def idle(untried: Iterable[tuple[str, RewriteRule]], owner: fx.GraphModule) -> Iterator[NearMiss]:
    """Why rules were never tried on the graph of ``owner``.

    Args:
        untried: those rules, and what to call each: "pass/rule".
        owner: of the graph.
    """
    given = list(untried)
    written = _written(owner) if given else {}
    for name, rule in given:
        roots = list(rule.pattern.roots())
        absent = f"nothing in the graph is {' or '.join(sought_name(root) for root in roots)}"
        ops = [root for root in roots if isinstance(root, OpDef)]
        spellings = (s for op in ops for s in (*op.functions, *op.methods, *op.modules))
        node = next((written[s] for s in spellings if s in written), None)
        if node is not None:
            yield NearMiss(name, node.name, f"{absent}; {_as_written(node)}", meta.source(node))
            continue
        explained = not written or len(ops) < len(roots)
        yield NearMiss(name, "", absent if explained else absent + _LEVELS)


def _written(owner: fx.GraphModule) -> dict[object, fx.Node]:
    """The first call of each that is not canonical: of a function, a method, a kind of module."""
    found: dict[object, fx.Node] = {}
    for node in owner.graph.nodes:
        if node.op == "call_module":
            for kind in type(owner.get_submodule(str(node.target))).__mro__:
                found.setdefault(kind, node)
        elif node.op.startswith("call_") and not isinstance(node.target, OpDef):
            found.setdefault(node.target, node)
    return found


def _as_written(node: fx.Node) -> str:
    name = sought_name(node.target) if node.op == "call_method" else target_name(node.target)
    shown = str(node.target) if node.op == "call_module" else name
    note = meta.note_of(node)
    why = f": {note}" if note else ", and the pass canonicalize may make it canonical"
    return f"{shown} stands here as it was written{why}"
