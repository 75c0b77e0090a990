"""Weights that training computes from parameters: which parameter, and what is computed."""

from __future__ import annotations

from torch import fx

from qfx_passes.operands import is_derived


def parameter_of(node: fx.Node) -> fx.Node:
    """The weight that a parameter is derived from, by its first operand."""
    while is_derived(node):
        node = node.all_input_nodes[0]
    return node


def expression_of(node: fx.Node) -> tuple[object, ...]:
    """What a node computes from parameters: equal for two that compute the same."""
    if not is_derived(node):
        return (node.op, str(node.target))
    operands = tuple(expression_of(n) for n in node.all_input_nodes)
    return (node.target, operands, tuple(node.kwargs.items()))
