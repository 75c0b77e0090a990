"""fuse-conv-bn: fold inference batch-norm into the layer that feeds it.

    batch_norm(conv(x, W, b), mean, var, gamma, beta)  ->  conv(x, W', b')

What W' and b' are, :mod:`qfx.semantics.folding` tells, and what is assumed,
:mod:`qfx_passes.fusion.batch_norm_folds`. Batch-norm *before* a convolution stays: padding would
have to be folded too, and zeros are not.

Where the parameters are still to be trained, the fold is written into the graph instead of being
computed: FOLD_WEIGHT and FOLD_BIAS of the parameters as they are.
"""

from __future__ import annotations

from torch import fx

from qfx import vocab
from qfx.framework.levels import Level
from qfx.framework.pass_base import PatternPass
from qfx.rewrite import Any, Attr, Match, Mismatch, Op, Rewriter, rewrite
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


class FuseConvBN(PatternPass):
    """Fold batch-norm into the convolution or linear layer before it.

    Attributes:
        trainable: write the fold into the graph; parameters keep their names.
    """

    name = "fuse-conv-bn"
    requires = Level.CANONICAL
    patterns = (fold_batch_norm,)
    trainable: bool = False
