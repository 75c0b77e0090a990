"""fuse-conv-bn: fold inference batch-norm into the layer that feeds it.

    batch_norm(conv(x, W, b), mean, var, gamma, beta)  ->  conv(x, W', b')

What W' and b' are, :mod:`qfx.semantics.folding` tells, and what is assumed,
:mod:`qfx_passes.fusion.batch_norm_folds`. Batch-norm *before* a convolution stays: padding would
have to be folded too, and zeros are not.

So are a constant factor and a constant summand of each channel, as batch-norms with frozen
statistics are written (:mod:`qfx_passes.fusion.channel_arithmetic`):

    conv(x, W, b) * s  ->  conv(x, W * s, b * s)         conv(x, W, b) + t  ->  conv(x, W, b + t)

Where the parameters are still to be trained, the fold is written into the graph instead of being
computed: FOLD_WEIGHT and FOLD_BIAS of the parameters as they are. Factors and summands stay.
"""

from __future__ import annotations

from torch import fx

from qfx import vocab
from qfx.framework.levels import Level
from qfx.framework.pass_base import PatternPass
from qfx.framework.pass_context import PassContext
from qfx.rewrite import Any, Attr, Match, Mismatch, Op, Rewriter, rewrite
from qfx_passes.fusion import channel_arithmetic
from qfx_passes.fusion.batch_norm_folds import computed, fold_of, untrainable, written

LAYER = Op(vocab.LAYERS, Any(), Attr(), bind="layer", users=1)


@rewrite(Op(vocab.BATCH_NORM, LAYER, Attr(), Attr()), name="fold-batch-norm")
def fold_batch_norm(match: Match, rw: Rewriter) -> fx.Node | Mismatch:
    layer, trainable = match["layer"], rw.get(FuseConvBN).trainable
    fold = fold_of(layer, match.root, rw)
    if isinstance(fold, Mismatch):
        return fold
    refusal = untrainable(fold, match.root, rw) if trainable else None
    if refusal is not None:
        return refusal
    with rw.at(layer):  # not at the batch-norm: something may overwrite the input in between
        weight, bias = written(fold, rw) if trainable else computed(fold, rw)
        return rw.with_args(layer, layer.args[0], weight, bias)


@rewrite(Op(vocab.MUL, LAYER, Attr("factor")), name="fold-factor")
def fold_factor(match: Match, rw: Rewriter) -> fx.Node | Mismatch:
    layer, factor = match["layer"], match["factor"]
    refusal = _refusal(match, factor, rw)
    if refusal is not None:
        return refusal
    with rw.at(layer):
        return channel_arithmetic.scaled(layer, factor, rw)


@rewrite(Op(vocab.ADD, LAYER, Attr("summand")), name="fold-summand")
def fold_summand(match: Match, rw: Rewriter) -> fx.Node | Mismatch:
    return _shifted(match, 1.0, rw)


@rewrite(Op(vocab.SUB, LAYER, Attr("summand")), name="fold-subtrahend")
def fold_subtrahend(match: Match, rw: Rewriter) -> fx.Node | Mismatch:
    return _shifted(match, -1.0, rw)


def _shifted(match: Match, sign: float, rw: Rewriter) -> fx.Node | Mismatch:
    layer, summand = match["layer"], match["summand"]
    refusal = _refusal(match, summand, rw)
    if refusal is not None:
        return refusal
    by = sign * vocab.bound(match.root)["alpha"]
    with rw.at(layer):
        return channel_arithmetic.shifted(layer, summand, by, rw)


def _refusal(match: Match, operand: fx.Node, rw: Rewriter) -> Mismatch | None:
    if rw.get(FuseConvBN).trainable:
        return Mismatch("{0} and what it is made of may be trained", match["layer"])
    return channel_arithmetic.refusal(match["layer"], match.root, operand, rw)


class FuseConvBN(PatternPass):
    """Fold batch-norm, and constants of channels, into the convolution or linear layer before.

    Attributes:
        trainable: write the fold into the graph; parameters keep their names.
    """

    name = "fuse-conv-bn"
    requires = Level.CANONICAL
    patterns = (fold_batch_norm, fold_factor, fold_summand, fold_subtrahend)
    trainable: bool = False

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        known = len(ctx.near_misses)
        super().run(graph, ctx)
        of_channels = {f"{self.name}/{rule.name}" for rule in self.patterns[1:]}
        constant = {u.name for n in graph.nodes if n.op == "get_attr" for u in n.users}
        ctx.near_misses[known:] = [  # an addition of two activations is not near to these
            miss
            for miss in ctx.near_misses[known:]
            if miss.rule not in of_channels or miss.node in constant
        ]
