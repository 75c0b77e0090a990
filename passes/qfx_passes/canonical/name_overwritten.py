"""Values that a call overwrites, or may overwrite, in place.

Canonicalization makes most in-place operations functional. What it has to leave, an operation on a
view that something else reads or a function of the user's own, changes values behind the back of
whoever read them before: quantizing such a value takes a copy, and the copy would miss the change.

So the value after the change gets a node of its own (:data:`qfx.vocab.AFTER`), which is a value
like any other; so does everything else that lies in its memory. What is left are views: of a value
that changes later, they must stay views, and what reads one after the change must read its memory.
"""

from __future__ import annotations

from torch import fx

from qfx import vocab
from qfx.graph import meta
from qfx.graph.effects import overwrites
from qfx.graph.memory import Memory
from qfx.rewrite.rewriter import Rewriter


def name_changed_values(graph: fx.Graph, rewriter: Rewriter) -> None:
    """Let what reads a value after a call that may change it read a node of its own.

    One backward sweep: behind every node it is known what is read from there on, by memory.
    """
    memory = Memory(graph)
    read_later: dict[fx.Node, dict[fx.Node, None]] = {}
    for node in reversed(list(graph.nodes)):
        read_later.setdefault(memory.owner(node), {}).pop(node, None)
        for owner in dict.fromkeys(map(memory.owner, overwrites(node))):
            for value in read_later.get(owner, {}):
                if value.op != "get_attr" and meta.tensor_info(value) is not None:
                    readers = [user for user in value.users if user > node]
                    _name_changed(node, value, readers, rewriter)
        for operand in node.all_input_nodes:
            read_later.setdefault(memory.owner(operand), {})[operand] = None


def _name_changed(
    writer: fx.Node, operand: fx.Node, readers: list[fx.Node], rewriter: Rewriter
) -> None:
    with rewriter.at(writer.next):
        changed = rewriter.call(vocab.AFTER, operand, writer, value=meta.value_of(operand))
    meta.set_origins(changed, ())
    for reader in readers:
        rewriter.rewire(reader, operand, changed)
