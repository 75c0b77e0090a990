"""Nodes that a pass made with plain fx, without provenance or shape: they get both.

What a node *replaces* is what its old readers read before in the same place, if that is gone now.
It derives from what it replaces; a step on the way to such a node derives from the same; and
anything else from what it reads. What it yields is inferred without values
(:mod:`qfx.graph.inference`); where that fails it stays unknown, and what reads it stays float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from torch import fx

from qfx.graph import meta
from qfx.graph.inference import Inference
from qfx.private_attributes import is_erased


def adopt(
    graph_module: fx.GraphModule, before: Callable[[], Mapping[fx.Node, object]], maker: str
) -> None:
    """Give the nodes that have no provenance origins, the maker's name, and a value.

    Args:
        graph_module: whose graph a pass has changed.
        before: tells the arguments of every node, as the pass found them.
        maker: name of the pass.
    """
    bare = [n for n in graph_module.graph.nodes if meta.ORIGINS not in n.meta and n.op != "output"]
    if not bare:
        return
    _trace(bare, before(), maker)
    inference = Inference(graph_module)
    for node in bare:
        with suppress(Exception):  # of the node's own operation: the check of values says more
            meta.set_value(node, inference.value(node))


def _trace(bare: Iterable[fx.Node], before: Mapping[fx.Node, object], maker: str) -> None:
    """Set origins: backwards by what is replaced, then forwards by what is read."""
    new = dict.fromkeys(bare)
    derived: dict[fx.Node, dict[fx.Node, None]] = {}
    for node in reversed(new):
        found = dict.fromkeys(_replaced(node, before))
        if not found:
            found = {o: None for user in node.users for o in derived.get(user, ())}
        derived[node] = found
    for node in new:
        meta.copy_meta(node, *(derived[node] or node.all_input_nodes), rule=maker)


def _replaced(node: fx.Node, before: Mapping[fx.Node, object]) -> Iterable[fx.Node]:
    for reader in node.users:
        if reader not in before:
            continue
        was, now = _flat(before[reader]), _flat((reader.args, reader.kwargs))
        if len(was) == len(now):
            yield from (w for w, n in zip(was, now, strict=True) if n is node and is_erased(w))


def _flat(arguments: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(arguments, lambda n: found.append(n) or n)  # type: ignore[func-returns-value]
    return found
