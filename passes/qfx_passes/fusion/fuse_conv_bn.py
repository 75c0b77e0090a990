"""Fold inference batch-norm into the layer that feeds it (:mod:`qfx.semantics.folding`).

Assumed: weight, bias and statistics are constants of the graph; dim 1, which batch-norm
normalizes, is the channel dim of the layer (not so for a linear over (N, L, C), or an unbatched
convolution); nobody else reads the layer. A weight that several calls share is read, never
written: each fold makes constants of its own. Batch-norm *before* a convolution stays: padding
would have to be folded too, and zeros are not.

Where the parameters are still to be trained, the fold is written into the graph instead of being
computed: FOLD_WEIGHT and FOLD_BIAS of the parameters as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from qfx import vocab
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass, PassContext
from qfx.graph import meta
from qfx.graph.overlap import memory_of
from qfx.graph.state import written_memory
from qfx.rewrite import Any as Anything
from qfx.rewrite import Attr, Match, Mismatch, Op, Rewriter, drive, rewrite
from qfx.semantics.folding import fold_bias, fold_weight
from qfx_passes.canonical.norms import Norms


class FuseConvBN(Pass):
    """Fold batch-norm into the convolution or linear layer before it.

    Attributes:
        trainable: write the fold into the graph; parameters keep their names.
    """

    name = "fuse-conv-bn"
    requires = Level.CANONICAL
    trainable: bool = False

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        layer = Op(vocab.LAYERS, Anything(), Attr(), bind="layer", users=1)
        pattern = Op(vocab.BATCH_NORM, layer, Attr(), Attr())
        rule = rewrite(pattern, name="fold-batch-norm")(
            _Folds(
                ctx.get(Norms) if self.trainable else None, written_memory(ctx.graph_module)
            ).apply
        )
        ctx.near_misses.extend(drive((rule,), ctx.rewriter))


@dataclass(frozen=True)
class _Source:
    """What a fold computes from; equal sources give equal constants."""

    parameters: tuple[tuple[str, str], ...]  # role in the fold, name in the model
    eps: float
    groups: int
    transposed: bool

    @property
    def layout(self) -> dict[str, Any]:
        """The attributes of FOLD_WEIGHT."""
        return {"eps": self.eps, "groups": self.groups, "transposed": self.transposed}


class _Folds:
    """The rule, with the constants it made: a layer called twice keeps one weight."""

    def __init__(self, norms: Norms | None, changing: set[int]) -> None:
        self._norms = norms  # of a graph that is to be trained
        self._changing = changing
        self._made: dict[_Source, tuple[str, str]] = {}

    def apply(self, match: Match, rw: Rewriter) -> fx.Node | Mismatch:
        layer, norm = match["layer"], match.root
        of_layer, of_norm = vocab.bound(layer), vocab.bound(norm)
        parameters = _parameters(of_layer, of_norm)
        refusal = _refusal(layer, norm, parameters)
        if refusal is not None:
            return refusal
        for parameter in parameters.values():
            if memory_of(rw.tensor(parameter)) in self._changing:
                return Mismatch("%{0} is changed in place when the model runs", parameter)
        if self._norms is not None and not self._norms.holds(parameters["var"]):
            return Mismatch("{0} is no module of PyTorch's own, which training could call", norm)
        source = _Source(
            tuple((name, str(node.target)) for name, node in parameters.items()),
            of_norm["eps"],
            of_layer.get("groups", 1),
            layer.target.transposed,
        )
        with rw.at(layer):  # not at the batch-norm: something may overwrite the input in between
            weight, bias = self._constants(source, parameters, rw)
            return rw.with_args(layer, layer.args[0], weight, bias)

    def _constants(
        self, source: _Source, parameters: dict[str, fx.Node], rw: Rewriter
    ) -> tuple[fx.Node, fx.Node]:
        if self._norms is not None:
            return _written(source, rw)
        if source in self._made:
            weight, bias = self._made[source]
            return rw.attribute(weight), rw.attribute(bias)
        nodes = _fold(source, parameters, rw)
        self._made[source] = str(nodes[0].target), str(nodes[1].target)
        return nodes


def _parameters(
    of_layer: dict[str, fx.Node | None], of_norm: dict[str, fx.Node | None]
) -> dict[str, fx.Node]:
    """The nodes that the fold is computed from, by role; without what is None."""
    nodes = {
        "weight": of_layer["weight"],
        "bias": of_layer["bias"],
        "mean": of_norm["running_mean"],
        "var": of_norm["running_var"],
        "gamma": of_norm["weight"],
        "beta": of_norm["bias"],
    }
    return {name: node for name, node in nodes.items() if node is not None}


def _refusal(layer: fx.Node, norm: fx.Node, parameters: dict[str, fx.Node]) -> Mismatch | None:
    for node in (layer, norm):
        if node.kwargs.get("post"):
            return Mismatch("{0} has post-ops already: fold before fusing those", node)
    for parameter in parameters.values():
        if parameter.op != "get_attr":
            return Mismatch("%{0} is computed, not a constant", parameter)
    result, weight = meta.tensor_info(layer), meta.tensor_info(parameters["weight"])
    if result is None or weight is None:
        return Mismatch("the shape of {0} is unknown", layer)
    if len(result.shape) != len(weight.shape):
        text = "dim 1 of the rank-{1} result of {0} is not its channel dim"
        return Mismatch(text, layer, len(result.shape))
    return None


def _fold(source: _Source, parameters: dict[str, fx.Node], rw: Rewriter) -> tuple[fx.Node, fx.Node]:
    """The new weight and bias, registered beside the old weight."""
    tensors = {name: rw.tensor(node) for name, node in parameters.items()}
    mean, var = tensors["mean"], tensors["var"]
    weight = fold_weight(tensors["weight"], var, tensors.get("gamma"), **source.layout)
    of_bias = {name: tensors.get(name) for name in ("gamma", "beta", "bias")}
    bias = fold_bias(mean, var, **of_bias, eps=source.eps)
    name = str(parameters["weight"].target)
    stem = name.removesuffix("weight")
    beside = f"{stem}bias" if stem != name else f"{name}_bias"
    return rw.constant(name, weight), rw.constant(beside, bias)


def _written(source: _Source, rw: Rewriter) -> tuple[fx.Node, fx.Node]:
    """Nodes that compute the new weight and bias from the parameters."""
    nodes = {name: rw.attribute(target) for name, target in source.parameters}
    of_weight = _up_to_last(nodes, "weight", "var", "gamma")
    of_bias = _up_to_last(nodes, "mean", "var", "gamma", "beta", "bias")
    like = {name: meta.value_of(node) for name, node in nodes.items()}
    weight = rw.call(vocab.FOLD_WEIGHT, *of_weight, value=like["weight"], **source.layout)
    bias = rw.call(vocab.FOLD_BIAS, *of_bias, value=like["mean"], eps=source.eps)
    return weight, bias


def _up_to_last(nodes: Mapping[str, fx.Node], *names: str) -> tuple[fx.Node | None, ...]:
    """Operands in order, None for those that are missing, up to the last that is not."""
    operands = [nodes.get(name) for name in names]
    while operands[-1] is None:
        operands.pop()
    return tuple(operands)
