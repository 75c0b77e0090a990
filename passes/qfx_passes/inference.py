"""Shapes and dtypes of new nodes, from those of their operands."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from qfx.graph import meta


def infer(node: fx.Node) -> meta.Value:
    """What a node yields, from the shapes of its operands alone."""

    def stand_in(operand: fx.Node) -> Any:
        return _empty(meta.value_of(operand))

    args, kwargs = map_arg((node.args, dict(node.kwargs)), stand_in)
    assert callable(node.target)
    return meta.describe(node.target(*args, **kwargs))


def _empty(value: meta.Value) -> Any:
    if isinstance(value, meta.TensorInfo):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    if isinstance(value, (tuple, list)):
        return type(value)(map(_empty, value))
    return value
