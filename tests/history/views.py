"""Graphs built by hand, node by node, for the tests of the views."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from qfx.graph import meta
from qfx.graph.meta import Origin, TensorInfo

F32 = TensorInfo((1, 8, 32, 32), torch.float32)


class Builder:
    """Builds a GraphModule; every node is its own origin unless told otherwise."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.root = nn.Module()

    def input(self, name: str, value: meta.Value = F32) -> fx.Node:
        node = self.graph.placeholder(name)
        meta.set_value(node, value)
        return node

    def weight(self, name: str) -> fx.Node:
        parent = self.root
        *path, leaf = name.split(".")
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.register_parameter(leaf, nn.Parameter(torch.zeros(1)))
        return self.graph.get_attr(name)

    def call(
        self,
        target: Any,
        *args: Any,
        name: str,
        origins: tuple[str, ...] | None = None,
        value: meta.Value = F32,
        path: str = "",
        source: str = "model.py:12",
        **kwargs: Any,
    ) -> fx.Node:
        node = self.graph.create_node("call_function", target, args, kwargs, name)
        names = (name,) if origins is None else origins
        meta.set_origins(node, [Origin(n, path or n, source, "torch.op") for n in names])
        meta.set_value(node, value)
        return node

    def done(self, *results: Any) -> fx.GraphModule:
        self.graph.output(results[0] if len(results) == 1 else results)
        return fx.GraphModule(self.root, self.graph)
