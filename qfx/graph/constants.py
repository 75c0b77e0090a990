"""What nodes compute from the constants of a module alone."""

from __future__ import annotations

from torch import Tensor, fx

from qfx.graph.interpret import result_of
from qfx.graph.lookup import attribute_of
from qfx.vocab import OpDef


def constant_value(node: fx.Node, owner: fx.GraphModule) -> Tensor | None:
    """What a node computes from constants of ``owner`` alone; None if it reads anything else."""
    if node.op == "get_attr":
        found: Tensor = attribute_of(owner, str(node.target))
        return found
    if not isinstance(node.target, OpDef):
        return None
    known = {operand: constant_value(operand, owner) for operand in node.all_input_nodes}
    if any(value is None for value in known.values()):
        return None
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), known.__getitem__)
    made: Tensor = result_of(node, args, kwargs)
    return made
