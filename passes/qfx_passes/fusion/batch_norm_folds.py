"""What batch-norm folds into a layer, and when it may.

Assumed: weight, bias and statistics are constants of the graph; dim 1, which batch-norm
normalizes, is the channel dim of the layer (not so for a linear over (N, L, C), or an unbatched
convolution); nobody else reads the layer. A weight that several calls share is read, never
written: each fold makes constants of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import fx
from typing_extensions import Self

from qfx import vocab
from qfx.graph import meta
from qfx.graph.effects import overwrites
from qfx.graph.overlap import memory_of
from qfx.graph.state import written_memory
from qfx.rewrite import Analysis, Mismatch, Rewriter
from qfx.semantics.folding import fold_bias, fold_weight
from qfx_passes.canonical.norms import Norms


@dataclass(frozen=True)
class Fold:
    """What a fold computes from; equal folds give equal constants.

    Attributes:
        parameters: role in the fold, name in the model.
        eps, groups, transposed: of the batch-norm, and of the layer.
    """

    parameters: tuple[tuple[str, str], ...]
    eps: float
    groups: int
    transposed: bool

    @property
    def layout(self) -> dict[str, Any]:
        """The attributes of FOLD_WEIGHT."""
        return {"eps": self.eps, "groups": self.groups, "transposed": self.transposed}


class ChangedMemory(Analysis):
    """Where the constants lie that change when the model runs."""

    def __init__(self, places: set[int]) -> None:
        self._places = places

    @classmethod
    def of(cls, graph_module: fx.GraphModule) -> Self:
        return cls(written_memory(graph_module))

    def learn(self, node: fx.Node) -> bool:
        return not overwrites(node)

    def __contains__(self, place: int) -> bool:
        return place in self._places


class Folded(Analysis):
    """The constants that folds have made: a layer called twice keeps one weight."""

    def __init__(self) -> None:
        self.constants: dict[Fold, tuple[str, str]] = {}

    @classmethod
    def of(cls, graph_module: fx.GraphModule) -> Self:
        return cls()

    def learn(self, node: fx.Node) -> bool:
        return True


def fold_of(layer: fx.Node, norm: fx.Node, rw: Rewriter) -> Fold | Mismatch:
    """What folding ``norm`` into ``layer`` computes from, or why it may not be."""
    of_layer, of_norm = vocab.bound(layer), vocab.bound(norm)
    parameters = _parameters(of_layer, of_norm)
    refusal = _refusal(layer, norm, parameters)
    if refusal is not None:
        return refusal
    for parameter in parameters.values():
        if memory_of(rw.tensor(parameter)) in rw.analysis(ChangedMemory):
            return Mismatch("%{0} is changed in place when the model runs", parameter)
    return Fold(
        tuple((role, str(node.target)) for role, node in parameters.items()),
        of_norm["eps"],
        of_layer.get("groups", 1),
        layer.target in vocab.TRANSPOSED,
    )


def untrainable(fold: Fold, norm: fx.Node, rw: Rewriter) -> Mismatch | None:
    """Why training could not call ``norm``, or None."""
    if rw.get(Norms).holds(dict(fold.parameters)["var"]):
        return None
    return Mismatch("{0} is no module of PyTorch's own, which training could call", norm)


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


def computed(fold: Fold, rw: Rewriter) -> tuple[fx.Node, fx.Node]:
    """The new weight and bias, registered beside the old weight."""
    made = rw.analysis(Folded).constants
    if fold not in made:
        made[fold] = _registered(fold, rw)
    weight, bias = made[fold]
    return rw.attribute(weight), rw.attribute(bias)


def _registered(fold: Fold, rw: Rewriter) -> tuple[str, str]:
    tensors = {role: attrgetter(name)(rw.graph_module) for role, name in fold.parameters}
    mean, var = tensors["mean"], tensors["var"]
    weight = fold_weight(tensors["weight"], var, tensors.get("gamma"), **fold.layout)
    of_bias = {name: tensors.get(name) for name in ("gamma", "beta", "bias")}
    bias = fold_bias(mean, var, **of_bias, eps=fold.eps)
    name = dict(fold.parameters)["weight"]
    stem = name.removesuffix("weight")
    beside = f"{stem}bias" if stem != name else f"{name}_bias"
    return rw.register(name, weight), rw.register(beside, bias)


def written(fold: Fold, rw: Rewriter) -> tuple[fx.Node, fx.Node]:
    """Nodes that compute the new weight and bias from the parameters."""
    nodes = {role: rw.attribute(name) for role, name in fold.parameters}
    of_weight = _up_to_last(nodes, "weight", "var", "gamma")
    of_bias = _up_to_last(nodes, "mean", "var", "gamma", "beta", "bias")
    like = {name: meta.value_of(node) for name, node in nodes.items()}
    weight = rw.call(vocab.FOLD_WEIGHT, *of_weight, value=like["weight"], **fold.layout)
    bias = rw.call(vocab.FOLD_BIAS, *of_bias, value=like["mean"], eps=fold.eps)
    return weight, bias


def _up_to_last(nodes: Mapping[str, fx.Node], *names: str) -> tuple[fx.Node | None, ...]:
    """Operands in order, None for those that are missing, up to the last that is not."""
    operands = [nodes.get(name) for name in names]
    while operands[-1] is None:
        operands.pop()
    return tuple(operands)
