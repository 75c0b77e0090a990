"""Shapes and dtypes of nodes from those of their operands, and whether what is recorded agrees.

A rewrite that changes a shape breaks the graph where it is next read, or hands out another output;
nothing fails before the graph runs, and then far from the pass. So what a pass made or rewired is
run on tensors without data, one node at a time.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from torch import fx
from torch.fx.node import map_arg

from qfx.errors import VerifyError
from qfx.graph import meta
from qfx.graph.snapshot import Snapshot
from qfx.graph.text import value_text
from qfx.vocab import is_op


def infer(node: fx.Node) -> meta.Value:
    """What a node yields, from the shapes of its operands alone."""

    def stand_in(operand: fx.Node) -> Any:
        return meta.without_data(meta.value_of(operand))

    args, kwargs = map_arg((node.args, dict(node.kwargs)), stand_in)
    assert callable(node.target)
    return meta.describe(node.target(*args, **kwargs))


def check_values(graph: fx.Graph, before: Snapshot, after: Snapshot, made: Container[str]) -> None:
    """Check the canonical operations that are new or changed since ``before``, and what reads them.

    Args:
        graph: the graph as it is now.
        before: the view of it that the pass started from.
        after: the view of it as it is now.
        made: names of the nodes that a rewrite made. One that only others of them read is a step
            of theirs: what it yields was merely inherited, and is put right. One that old nodes
            read has taken a place, and must yield what was there.

    Raises:
        VerifyError: an operation can't run on the shapes that it is given, or yields something else
            than is recorded, or the model returns something else than before.
    """
    old = {record.name: record for record in before}
    new = {record.name: record for record in after}
    fresh = {name for name, record in new.items() if old.get(name) is not record}
    moved = {n for n in fresh & old.keys() if old[n].value != new[n].value}
    for node in graph.nodes:
        touched = node.name in fresh or any(n.name in moved for n in node.all_input_nodes)
        if touched and is_op(node):
            _check(node, made)
    outputs = [_returned(before), _returned(after)]
    if outputs[0] != outputs[1]:
        was, now = (", ".join(value_text(v) or "no tensor" for v in each) for each in outputs)
        raise VerifyError(f"the model returned {was}, and returns {now} now", node="output")


def _check(node: fx.Node, made: Container[str]) -> None:
    if not all(_is_known(meta.value_of(operand)) for operand in node.all_input_nodes):
        return
    try:
        found = infer(node)
    except NotImplementedError:
        return  # what depends on data, or does not run without it
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise VerifyError(f"%{meta.where(node)} {_misfit(node, error)}", node=node.name) from error
    if found == meta.value_of(node):
        return
    if node.users and all(user.name in made for user in node.users):
        meta.set_value(node, found)
        return
    raise VerifyError(
        f"%{meta.where(node)} yields {value_text(found)} and stands where "
        f"{value_text(meta.value_of(node)) or 'no tensor'} was; what reads it expects that",
        node=node.name,
    )


def _misfit(node: fx.Node, error: Exception) -> str:
    given = ", ".join(value_text(meta.value_of(n)) for n in node.all_input_nodes)
    first = str(error).partition("\n")[0]
    return f"can't run on what it reads ({given}): {type(error).__name__}: {first}"


def _is_known(value: meta.Value) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_known, value))
    return isinstance(value, meta.TensorInfo)


def _returned(view: Snapshot) -> list[meta.Value]:
    values = {record.name: record.value for record in view}
    output = next(iter(reversed(view.records)))
    return [values[name] for name in output.inputs if name in values]
