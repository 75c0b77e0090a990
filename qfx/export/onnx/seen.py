"""What a model's operations yield for example inputs, for the forms that round more of it.

Examples may be small, dark or few. What later inputs are like is told by the model's own codes, of
which calibration decided how far they reach: where those around an operation reach further than
the examples do, so does the range that is kept of it.

    room = max(1, |ends of the codes| / |what was seen of them|)    of codes before and behind it
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.export.onnx.sizes import input_value
from qfx.graph.interpret import NamedInterpreter, result_of
from qfx.quant.reference_form import Measured, qparams_of
from qfx.semantics import layers
from qfx.semantics.post import apply_post
from qfx.vocab import is_op

Range: TypeAlias = "tuple[float, float]"
"""Smallest and largest value."""

ANY_CONV = (*vocab.CONVOLUTIONS, *vocab.TRANSPOSED)
"""What engines run in integers only where its result is quantized."""

PRODUCTS = (vocab.ATTENTION, vocab.ATTENTION_WEIGHTS, vocab.MATMUL)
"""Products of activations."""

JOINS = (vocab.CAT, vocab.MUL, vocab.ADD, vocab.SIGMOID, vocab.HARDSIGMOID, *vocab.AVG_POOLS)
"""What engines can compute from codes to codes, if it stands between such."""


@dataclass(frozen=True)
class SeenRanges:
    """The ranges that operations were seen to yield, by the names of their nodes.

    Names, since copies of a graph, and parts of it, have them too. Empty without example inputs.

    Attributes:
        before_post: of layers, before their post-ops.
        results: of layers and of :data:`JOINS`.
        factors: of :data:`PRODUCTS`, of what they multiply, in the order of their arguments; last
            of attention that of its weights.
        shapes: of all tensors.
    """

    before_post: dict[str, Range] = field(default_factory=dict)
    results: dict[str, Range] = field(default_factory=dict)
    factors: dict[str, tuple[Range, ...]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def see(
    module: fx.GraphModule, arguments: Mapping[str, object], *, factors: bool = True
) -> SeenRanges:
    """Run a reference graph on inputs by name, and keep the ranges, with or without ``factors``."""
    return run_seeing(module, {**defaults(module), **arguments}, factors=factors)[1]


def run_seeing(
    module: fx.GraphModule,
    arguments: Mapping[str, object],
    least: float = 1.0,
    *,
    factors: bool = True,
) -> tuple[Any, SeenRanges]:
    """What a reference graph yields for arguments by name, and the ranges.

    Args:
        module: the reference graph.
        arguments: by the names of its inputs.
        least: how many times as far as they were seen ranges reach at least.
        factors: whether those of products are kept; attention computes its weights anew for that.
    """
    watch = _Watch(module, arguments, factors=factors)
    with torch.no_grad():
        made = watch.run()
    rooms = _rooms(module.graph, watch.unfilled)

    def wide(ranges: dict[str, Range]) -> dict[str, Range]:
        known = {name: each for name, each in ranges.items() if math.isfinite(rooms[name])}
        return {name: _wider(each, max(least, rooms[name])) for name, each in known.items()}

    seen = watch.seen
    multiplied = {
        name: tuple(_wider(each, max(least, rooms[name])) for each in ranges)
        for name, ranges in seen.factors.items()
        if math.isfinite(rooms[name])
    }
    return made, SeenRanges(wide(seen.before_post), wide(seen.results), multiplied, seen.shapes)


def defaults(module: fx.GraphModule) -> dict[str, object]:
    """What the inputs are, by name, where a caller leaves them out."""
    nodes = module.graph.find_nodes(op="placeholder")
    return {str(node.target).lstrip("*"): input_value(node) for node in nodes}


class _Watch(NamedInterpreter):
    def __init__(
        self, module: fx.GraphModule, arguments: Mapping[str, object], *, factors: bool
    ) -> None:
        super().__init__(module, arguments)
        self.seen = SeenRanges()
        self._factors = factors
        self._codes: dict[fx.Node, object] = {}
        self._least: dict[object, float] = {}

    @property
    def unfilled(self) -> dict[fx.Node, float]:
        """How many times as far as what is quantized the codes of each node reach."""
        return {node: self._least[alike] for node, alike in self._codes.items()}

    def run_node(self, n: fx.Node) -> Any:
        made = self._layer(n) if is_op(n, *ANY_CONV) else super().run_node(n)
        if is_op(n, vocab.QUANTIZE):
            self._fills(n)
        if self._factors and is_op(n, *PRODUCTS):
            self._multiplies(n)
        if isinstance(made, Tensor):
            self.seen.shapes[n.name] = tuple(made.shape)
            if is_op(n, *ANY_CONV, *JOINS) and made.is_floating_point() and made.numel():
                self.seen.results[n.name] = _range(made)
        return made

    def _layer(self, node: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        post = kwargs.pop("post", ())
        made = result_of(node, args, kwargs)
        self.seen.before_post[node.name] = _range(made)
        return apply_post(made, post)

    def _multiplies(self, node: fx.Node) -> None:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        factors = list(_factors(node, args, kwargs))
        if all(each.is_floating_point() and each.numel() for each in factors):
            self.seen.factors[node.name] = tuple(map(_range, factors))

    def _fills(self, node: fx.Node) -> None:
        """Look at how much of its codes a node fills.

        Codes that several share reach as far as the largest of these.
        """
        qparams = qparams_of(node, self.module)  # type: ignore[arg-type]
        (given, *_), _ = self.fetch_args_kwargs_from_env(node)
        if isinstance(qparams, Measured) or qparams.axis is not None or not given.numel():
            return
        zero, scale = int(qparams.zero_point), float(qparams.scale)
        codes = max(abs(end - zero) * scale for end in (qparams.quant_min, qparams.quant_max))
        reached = max(map(abs, _range(given)))
        found = codes / reached if reached else math.inf
        self._codes[node] = alike = (scale, zero, qparams.quant_min, qparams.quant_max)
        self._least[alike] = min(found, self._least.get(alike, found))


def _factors(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """What a product multiplies; weights of attention come last."""
    assert isinstance(node.target, vocab.OpDef)
    given = node.target.signature.bind(*args, **kwargs).arguments
    names = ("input", "other") if is_op(node, vocab.MATMUL) else ("query", "key")
    yield from map(given.__getitem__, names)
    if not is_op(node, vocab.ATTENTION):
        return
    yield given["value"]
    mask, query, key = given.get("attn_mask"), given["query"], given["key"]
    if given.get("is_causal"):
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    if mask is not None and mask.dtype == torch.bool:
        mask = layers.additive_mask(~mask, dtype=query.dtype).to(query.device)
    weights = layers.attention_weights(query, key, mask, scale=given.get("scale"))
    yield weights.nan_to_num(0.0)  # of rows that are all masked


def _rooms(graph: fx.Graph, unfilled: Mapping[fx.Node, float]) -> dict[str, float]:
    """How many times as far as it was seen each result may reach, by what codes around it do."""
    before: dict[fx.Node, float] = {}
    behind: dict[fx.Node, float] = {}
    for node in graph.nodes:
        others = (before[each] for each in node.all_input_nodes)
        before[node] = unfilled[node] if node in unfilled else max(others, default=1.0)
    for node in reversed(graph.nodes):
        others = (unfilled.get(each, behind[each]) for each in node.users)
        behind[node] = max(others, default=1.0)
    return {node.name: max(1.0, before[node], behind[node]) for node in graph.nodes}


def _wider(range: Range, times: float) -> Range:
    low, high = range
    return low - (times - 1) * abs(low), high + (times - 1) * abs(high)


def _range(tensor: Tensor) -> Range:
    least, most = torch.aminmax(tensor)
    return float(least), float(most)
