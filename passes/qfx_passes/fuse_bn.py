"""Fold inference batch-norm into the layer that feeds it.

With sigma = sqrt(var + eps), per output channel:

    gamma * (W x + b - mu) / sigma + beta  =  W' x + b'
    W' = W * gamma / sigma                    b' = (b - mu) * gamma / sigma + beta

computed in float64 and rounded once to the dtype of W, so that the fold itself costs at most half
an ulp per weight. Output channels lie along axis 0 of the weight; a transposed convolution keeps
them along axis 1, one block of them per group.

Assumed: weight, bias and statistics are constants of the graph; dim 1, which batch-norm
normalizes, is the channel dim of the layer (not so for a linear over (N, L, C), or an unbatched
convolution); nobody else reads the layer. A weight that several calls share is read, never
written: each fold makes constants of its own. Batch-norm *before* a convolution stays: padding
would have to be folded too, and zeros are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.graph import meta
from qfx.levels import Level
from qfx.pass_base import Pass, PassContext
from qfx.rewrite import Any, Attr, Match, Mismatch, Op, Rewriter, drive, rewrite

TRANSPOSED = (vocab.CONV_TRANSPOSE1D, vocab.CONV_TRANSPOSE2D, vocab.CONV_TRANSPOSE3D)
LAYERS = (vocab.CONV1D, vocab.CONV2D, vocab.CONV3D, *TRANSPOSED, vocab.LINEAR)


def fold(
    weight: Tensor,
    mean: Tensor,
    var: Tensor,
    bias: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    eps: float,
    groups: int = 1,
    transposed: bool = False,
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer that computes layer and batch-norm at once.

    Args:
        weight: (C, ...), or (in, C / groups, ...) if ``transposed``; floating point.
        mean: running mean, (C,).
        var: running variance, (C,).
        bias: of the layer, (C,); None for zeros.
        gamma: factor of the batch-norm, (C,); None for ones.
        beta: shift of the batch-norm, (C,); None for zeros.
        eps: added to the variance.
        groups: convolution groups; only a transposed weight's layout depends on them.
        transposed: whether the layer is a transposed convolution.

    Returns:
        The new weight, in the shape and dtype of ``weight``, and the new bias (C,), same dtype.
    """
    factor = torch.rsqrt(var.double() + eps)
    if gamma is not None:
        factor = factor * gamma.double()
    shift = -mean.double() if bias is None else bias.double() - mean.double()
    shift = shift * factor
    if beta is not None:
        shift = shift + beta.double()
    scaled = weight.double()
    if transposed:
        blocks = scaled.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        scaled = (blocks * factor.reshape(groups, 1, -1, 1)).reshape(weight.shape)
    else:
        scaled = scaled * factor.reshape(-1, *[1] * (weight.dim() - 1))
    return scaled.to(weight.dtype), shift.to(weight.dtype)


class FuseConvBN(Pass):
    """Fold batch-norm into the convolution or linear layer before it."""

    name = "fuse-conv-bn"
    requires = Level.CANONICAL

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        layer = Op(LAYERS, Any(), Attr(), bind="layer", users=1)
        pattern = Op(vocab.BATCH_NORM, layer, Attr(), Attr())
        rule = rewrite(pattern, name="fold-batch-norm")(_Folds().apply)
        ctx.near_misses.extend(drive((rule,), ctx.rewriter))


@dataclass(frozen=True)
class _Source:
    """What a fold computes from; equal sources give equal constants."""

    parameters: tuple[tuple[str, str], ...]  # argument of fold, name in the model
    eps: float
    groups: int
    transposed: bool


class _Folds:
    """The rule, with the constants it made: a layer called twice keeps one weight."""

    def __init__(self) -> None:
        self._made: dict[_Source, tuple[str, str]] = {}

    def apply(self, match: Match, rw: Rewriter) -> fx.Node | Mismatch:
        layer, norm = match["layer"], match.root
        of_layer, of_norm = vocab.bound(layer), vocab.bound(norm)
        parameters = _parameters(of_layer, of_norm)
        refusal = _refusal(layer, norm, parameters)
        if refusal is not None:
            return refusal
        source = _Source(
            tuple((name, str(node.target)) for name, node in parameters.items()),
            of_norm["eps"],
            of_layer.get("groups", 1),
            layer.target in TRANSPOSED,
        )
        with rw.at(layer):  # not at the batch-norm: something may overwrite the input in between
            weight, bias = self._constants(source, parameters, rw)
            return rw.with_args(layer, layer.args[0], weight, bias)

    def _constants(
        self, source: _Source, parameters: dict[str, fx.Node], rw: Rewriter
    ) -> tuple[fx.Node, fx.Node]:
        if source in self._made:
            weight, bias = self._made[source]
            return rw.attribute(weight), rw.attribute(bias)
        nodes = _fold(source, parameters, rw)
        self._made[source] = str(nodes[0].target), str(nodes[1].target)
        return nodes


def _parameters(
    of_layer: dict[str, fx.Node | None], of_norm: dict[str, fx.Node | None]
) -> dict[str, fx.Node]:
    """The nodes that :func:`fold` computes from, by argument; without what is None."""
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
    weight, bias = fold(
        **{name: rw.tensor(node) for name, node in parameters.items()},
        eps=source.eps,
        groups=source.groups,
        transposed=source.transposed,
    )
    name = str(parameters["weight"].target)
    stem = name.removesuffix("weight")
    beside = f"{stem}bias" if stem != name else f"{name}_bias"
    return rw.constant(name, weight), rw.constant(beside, bias)
