"""What a model's operations yield for example inputs, for the forms that round more of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.export.onnx.sizes import input_value
from qfx.graph.interpret import NamedInterpreter, result_of
from qfx.semantics.post import apply_post
from qfx.vocab import is_op

Range: TypeAlias = "tuple[float, float]"
"""Smallest and largest value."""

LAYERS = (*vocab.CONVOLUTIONS, *vocab.TRANSPOSED)
"""What engines run in integers only where its result is quantized."""

JOINS = (vocab.CAT, vocab.MUL, vocab.ADD, vocab.SIGMOID, vocab.HARDSIGMOID, *vocab.AVG_POOLS)
"""What engines can compute from codes to codes, if it stands between such."""


@dataclass(frozen=True)
class SeenRanges:
    """The ranges that operations were seen to yield, by the names of their nodes.

    Names, since copies of a graph, and parts of it, have them too. Empty without example inputs.

    Attributes:
        before_post: of layers, before their post-ops.
        results: of layers and of :data:`JOINS`.
    """

    before_post: dict[str, Range] = field(default_factory=dict)
    results: dict[str, Range] = field(default_factory=dict)

    def widened(self) -> SeenRanges:
        """Ranges with room for inputs that yield more than the examples."""
        return SeenRanges(_wider(self.before_post), _wider(self.results))


def see(module: fx.GraphModule, arguments: Mapping[str, object]) -> SeenRanges:
    """Run a reference graph on inputs by name, and keep the ranges."""
    return run_seeing(module, {**defaults(module), **arguments})[1]


def run_seeing(module: fx.GraphModule, arguments: Mapping[str, object]) -> tuple[Any, SeenRanges]:
    """What a reference graph yields for arguments by name, and the ranges."""
    watch = _Watch(module, arguments)
    with torch.no_grad():
        made = watch.run()
    return made, watch.seen


def defaults(module: fx.GraphModule) -> dict[str, object]:
    """What the inputs are, by name, where a caller leaves them out."""
    nodes = module.graph.find_nodes(op="placeholder")
    return {str(node.target).lstrip("*"): input_value(node) for node in nodes}


class _Watch(NamedInterpreter):
    def __init__(self, module: fx.GraphModule, arguments: Mapping[str, object]) -> None:
        super().__init__(module, arguments)
        self.seen = SeenRanges()

    def run_node(self, n: fx.Node) -> Any:
        if is_op(n, *LAYERS):
            made = self._layer(n)
        else:
            made = super().run_node(n)
            if not is_op(n, *JOINS):
                return made
        if isinstance(made, Tensor) and made.is_floating_point() and made.numel():
            self.seen.results[n.name] = _range(made)
        return made

    def _layer(self, node: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        post = kwargs.pop("post", ())
        made = result_of(node, args, kwargs)
        self.seen.before_post[node.name] = _range(made)
        return apply_post(made, post)


def _wider(ranges: dict[str, Range]) -> dict[str, Range]:
    return {n: (a - _ROOM * abs(a), b + _ROOM * abs(b)) for n, (a, b) in ranges.items()}


_ROOM = 0.5
"""By how much of themselves the ends of a range are moved: that costs 3.5 dB of what is rounded."""


def _range(tensor: Tensor) -> Range:
    least, most = torch.aminmax(tensor)
    return float(least), float(most)
