"""Runs the float model and the rounded one side by side, on all kept batches, a node at a time.

So a layer sees what it reads as the model has it, and as it is once all that comes before is
rounded: the error that its own rounding can make up for. A value is let go of when nobody reads it
any more, so that what is held is the frontier of the graph, twice, for each batch; batches that
would take more than :data:`MOST_BYTES` are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from qfx.capture.arguments import copy_tensors
from qfx.graph import meta
from qfx.graph.interpret import thawed
from qfx.graph.steps import arguments_by_name
from qfx.quant.observers import Observer
from qfx.quant.qparams import QParams
from qfx.quant.recorders import observer_of
from qfx.runtime.samples import Sample
from qfx.semantics.post import apply_post
from qfx.verification.outputs import FloatSteps
from qfx.vocab import bound
from qfx_passes.placement.calibrated import calibrated_qparams

MOST_BYTES = 2**30


class Streams:
    """The two, on as many batches as fit.

    Args:
        graph_module: with observers in place.
        samples: batches of calibration.
        exact: what the model has where the graph has something else by now: of nodes, arguments by
            name of their parameters.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        samples: Sequence[Sample],
        exact: Mapping[fx.Node, Mapping[str, Tensor | None]] | None = None,
    ) -> None:
        self._given: dict[fx.Node, Mapping[str, Tensor | None]] = {}
        self._exact: list[SteppedModel] = []
        self._rounded: list[_RoundedSteps] = []
        qparams: dict[str, QParams] = {}
        for sample in samples[: _fitting(graph_module.graph)]:
            arguments = arguments_by_name(graph_module.graph, *sample)
            self._exact.append(SteppedModel(graph_module, copy_tensors(arguments), exact or {}))
            steps = _RoundedSteps(graph_module, copy_tensors(arguments), self._given, qparams)
            self._rounded.append(steps)

    def __len__(self) -> int:
        return len(self._exact)

    def give(self, node: fx.Node, **arguments: Tensor) -> None:
        """Let the rounded model compute a node with other arguments, by name of its parameters."""
        self._given[node] = {**self._given.get(node, {}), **arguments}

    def rounds(self, node: fx.Node) -> bool:
        """Whether the rounded model computes a node with other arguments."""
        return node in self._given

    def products(self, layer: fx.Node) -> Iterator[tuple[Tensor, Tensor]]:
        """What the next node, a layer, yields before its post-ops, for each batch: exact, rounded.

        Stepping over it goes on from there.
        """
        for exact, rounded in zip(self._exact, self._rounded, strict=True):
            yield exact.product(layer), rounded.product(layer)

    def shift(self, layer: fx.Node, by: Tensor) -> None:
        """Add (C,) numbers to the channels of what :meth:`products` gave of the rounded model."""
        for steps in self._rounded:
            steps.shift(layer, by)

    def values(self, node: fx.Node) -> Iterator[tuple[Any, Any]]:
        """What a node that was run yields, for each batch: as the model has it, and rounded."""
        for exact, rounded in zip(self._exact, self._rounded, strict=True):
            yield exact.env[node], rounded.env[node]

    def step(self, node: fx.Node) -> None:
        """Run the next node of the graph, in both."""
        for steps in (*self._exact, *self._rounded):
            steps.step(node)
        self._given.pop(node, None)


class SteppedModel(FloatSteps):
    """Runs a graph, layers with the arguments given."""

    def __init__(
        self,
        graph_module: fx.GraphModule,
        arguments: Mapping[str, object],
        given: Mapping[fx.Node, Mapping[str, Tensor | None]],
    ) -> None:
        super().__init__(graph_module, arguments)
        self._given = given
        self._products: dict[fx.Node, Tensor] = {}

    def product(self, layer: fx.Node) -> Tensor:
        """What a layer yields before its post-ops."""
        product: Tensor = self._called(layer, {**bound(layer), "post": ()})
        self._products[layer] = product
        return product

    def shift(self, layer: fx.Node, by: Tensor) -> None:
        """Add numbers to the channels of a product."""
        product, axis = self._products[layer], layer.target.channel_axis  # type: ignore[union-attr]
        product += by.to(product).reshape(-1, *(1,) * (-1 - axis))

    def run_node(self, n: fx.Node) -> Any:
        """Run a node as always, or with the arguments that were given, or from the product on."""
        if n in self._products:
            post = fx.map_arg(bound(n)["post"], lambda read: self.env[read])
            return apply_post(self._products.pop(n), thawed(post))
        return self._called(n, bound(n)) if n in self._given else super().run_node(n)

    def _called(self, n: fx.Node, arguments: dict[str, Any]) -> Any:
        """What a node yields for arguments of the graph, and those that were given."""
        found = thawed(dict(fx.map_arg(arguments, lambda read: self.env[read])))
        return n.target(**{**found, **self._given.get(n, {})})  # type: ignore[operator]


class _RoundedSteps(SteppedModel):
    """Runs a graph with what observers saw rounded, too."""

    def __init__(
        self,
        graph_module: fx.GraphModule,
        arguments: Mapping[str, object],
        given: Mapping[fx.Node, Mapping[str, Tensor | None]],
        qparams: dict[str, QParams],
    ) -> None:
        super().__init__(graph_module, arguments, given)
        self._qparams = qparams

    def run_node(self, n: fx.Node) -> Any:
        """What a node yields; an observer yields what it is given, rounded."""
        observer = observer_of(n)
        if not isinstance(observer, Observer) or not observer.seen:
            return super().run_node(n)
        value = self.env[n.all_input_nodes[0]]
        name = str(n.target)
        if name not in self._qparams:
            self._qparams[name] = calibrated_qparams(n, observer)
        return self._qparams[name].rounded(value)


def _fitting(graph: fx.Graph) -> int:
    """How many batches like the example may be held; one at least."""
    last = {read: node for node in graph.nodes for read in node.all_input_nodes}
    held = most = 0
    sizes: dict[fx.Node, int] = {}
    for node in graph.nodes:
        info = meta.tensor_info(node)
        if info is not None and node.op not in ("get_attr", "placeholder"):
            sizes[node] = info.numel * info.dtype.itemsize
        held += sizes.get(node, 0)
        most = max(most, held)
        held -= sum(sizes.pop(read, 0) for read in node.all_input_nodes if last[read] is node)
    return max(1, MOST_BYTES // max(1, 2 * most))
