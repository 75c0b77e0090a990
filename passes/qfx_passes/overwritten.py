"""Values that an operation left as written overwrites in place.

Canonicalization makes most in-place operations functional. What it has to leave, an operation on a
view that something else reads, changes values behind the back of whoever read them before:
quantizing such a value takes a copy, and the copy would miss the change.

One forward sweep with union-find over values that may share memory.
"""

from __future__ import annotations

from torch import fx, nn

from qfx.graph import meta
from qfx.rewrite.effects import has_effect
from qfx.vocab import Kind, OpDef


def overwritten(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Each value that may be overwritten, and the operation that does it."""
    culprits = [node for node in graph.nodes if _works_in_place(node)]
    if not culprits:
        return {}
    shares = _roots(graph, culprits)
    by_root = {shares[node]: node for node in reversed(culprits)}
    return {node: by_root[root] for node, root in shares.items() if root in by_root}


def computed_roots(graph: fx.Graph) -> list[fx.Node]:
    """The results, of operations, whose memory others are views of and something overwrites."""
    culprits = [node for node in graph.nodes if _works_in_place(node)]
    shares = _roots(graph, culprits) if culprits else {}
    roots = dict.fromkeys(shares[node] for node in culprits)
    return [root for root in roots if root.op not in ("placeholder", "get_attr")]


def _roots(graph: fx.Graph, culprits: list[fx.Node]) -> dict[fx.Node, fx.Node]:
    shares: dict[fx.Node, fx.Node] = {}
    in_place = set(culprits)
    for node in graph.nodes:
        shares[node] = node
        if _may_alias(node) or node in in_place:
            for operand in node.all_input_nodes[:1]:
                shares[node] = shares[operand]
        written = node.kwargs.get("out")
        if isinstance(written, fx.Node):
            shares[node] = shares[written]
    return shares


def _works_in_place(node: fx.Node) -> bool:
    if node.op == "call_module":
        owner = node.graph.owning_module
        module: nn.Module | None = owner.get_submodule(str(node.target)) if owner else None
        return bool(getattr(module, "inplace", False))
    is_call = node.op in ("call_function", "call_method")
    return is_call and not isinstance(node.target, OpDef) and has_effect(node)


def _may_alias(node: fx.Node) -> bool:
    if isinstance(node.target, OpDef):
        return node.target.kind is Kind.SHAPE
    return node.op != "call_module" or meta.is_alias(node)
