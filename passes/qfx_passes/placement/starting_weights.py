"""Weights that training starts with, of layers whose codes calibration chose.

Where the nearest code of a weight is the chosen one, the weight stays as it is; where it is
another, the weight becomes what the chosen code stands for.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.quant.reference_form import QuantizedWeight
from qfx.rewrite.rewriter import Rewriter
from qfx.semantics.folding import norm_factor, scale_channels
from qfx.vocab import bound, is_op
from qfx_passes.operands import parameter_value


@torch.no_grad()
def take_weight(node: fx.Node, wanted: QuantizedWeight, rw: Rewriter) -> None:
    """Let the weight of a layer, folded or not, be rounded to the codes of ``wanted``."""
    weight = bound(node)["weight"]
    other = wanted.qparams.quantize(parameter_value(weight, rw)) != wanted.integers
    if not other.any():
        return
    restored = wanted.qparams.dequantize(wanted.integers).double()
    if is_op(weight, vocab.FOLD_WEIGHT):
        restored = _unfolded(weight, restored, rw)
        weight = bound(weight)["weight"]
    held = rw.tensor(weight)
    held.copy_(torch.where(other & restored.isfinite(), restored.to(held.dtype), held))


def _unfolded(fold: fx.Node, restored: Tensor, rw: Rewriter) -> Tensor:
    """What folds to ``restored``; not finite in channels that a batch-norm takes times zero."""
    named = bound(fold)
    var, gamma = (named[n] and rw.tensor(named[n]) for n in ("var", "gamma"))
    inverse = norm_factor(var, gamma, named["eps"]).reciprocal()
    layout = {name: named[name] for name in ("groups", "transposed")}
    return scale_channels(restored, inverse, **layout)
