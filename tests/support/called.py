"""Calls of operations outside of any model: what tables and limits are asked about."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from qfx.graph import meta
from qfx.graph.meta import TensorInfo
from qfx.vocab import OpDef


def called(op: OpDef, *operands: Any, result: tuple[int, ...] = (1,), **attributes: Any) -> fx.Node:
    """A call of ``op``: a tuple of sizes stands for a float32 tensor of that shape."""
    graph = fx.Graph()

    def operand(value: Any) -> Any:
        if not isinstance(value, tuple):
            return value
        node = graph.placeholder("x")
        meta.set_value(node, TensorInfo(value, torch.float32))
        return node

    node = graph.call_function(op, tuple(map(operand, operands)), attributes)
    meta.set_value(node, TensorInfo(result, torch.float32))
    return node
