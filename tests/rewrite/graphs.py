"""Canonical graphs written by hand, for tests that need no capture."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import fx, nn

from qfx import vocab
from qfx.graph import meta
from qfx.history.snapshot import snapshot

_TYPE = re.compile(r"\s*: \w+\[[\d,]*\]")


class GraphBuilder:
    """Builds a canonical graph; ``b.relu(x)`` is ``call_function(vocab.RELU, (x,))``."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.owner = nn.Module()

    def input(self, name: str = "x") -> fx.Node:
        return self._known(self.graph.placeholder(name))

    def attr(self, name: str, tensor: torch.Tensor) -> fx.Node:
        self.owner.register_parameter(name, nn.Parameter(tensor))
        return self._known(self.graph.get_attr(name))

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return self._known(self.graph.call_function(target, args, kwargs))

    def method(self, name: str, *args: Any, **kwargs: Any) -> fx.Node:
        return self._known(self.graph.call_method(name, args, kwargs))

    def module(self, name: str, module: nn.Module, *args: Any) -> fx.Node:
        self.owner.add_module(name, module)
        return self._known(self.graph.call_module(name, args))

    def __getattr__(self, name: str) -> Any:
        op = vocab.lookup(name)
        return lambda *args, **kwargs: self.call(op, *args, **kwargs)

    def done(self, *outputs: Any) -> fx.GraphModule:
        self.graph.output(outputs[0] if len(outputs) == 1 else outputs)
        return fx.GraphModule(self.owner, self.graph)

    def _known(self, node: fx.Node) -> fx.Node:
        meta.set_origins(node, [meta.Origin(node.name, node.name, "model.py:7", "written")])
        meta.set_value(node, meta.TensorInfo((1, 4), torch.float32))
        return node


def text(graph_module: fx.GraphModule) -> str:
    """The IR without provenance, types and columns."""
    lines = snapshot(graph_module).to_text(provenance=False).splitlines()
    return "\n".join(" ".join(_TYPE.sub("", line).split()) for line in lines)
