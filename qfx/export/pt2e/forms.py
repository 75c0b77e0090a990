"""Forms by which engines know what is written; the program computes the same, bit for bit."""

from __future__ import annotations

import torch
from torch import fx

_DEQUANTIZE = "quantized_decomposed.dequantize"


def dequantize_for_each(graph: fx.Graph) -> None:
    """Give each reader of a dequantized value a dequantize of its own.

    Engines match a layer with what quantizes its operands, and take these nodes for theirs alone.
    Lowering to XNNPACK, ExecuTorch 1.5 replaces one for all who read it, and fails (``KeyError:
    'val'``) where one of these is outside of what XNNPACK runs.
    """
    for node in list(graph.nodes):
        if not _is(node, _DEQUANTIZE):
            continue
        for reader in list(node.users)[1:]:
            with graph.inserting_after(node):
                own = graph.node_copy(node, lambda operand: operand)
            reader.replace_input_with(node, own)


def call_hardtanh(graph: fx.Graph) -> None:
    """Write what clamps floats between two numbers as hardtanh, which engines fuse into layers."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.clamp.default):
        value = node.meta.get("val")
        numbers = [each for each in node.args[1:] if isinstance(each, (int, float))]
        if isinstance(value, torch.Tensor) and value.is_floating_point() and len(numbers) == 2:
            node.target = torch.ops.aten.hardtanh.default


def _is(node: fx.Node, name: str) -> bool:
    return node.op == "call_function" and str(node.target).startswith(name)
