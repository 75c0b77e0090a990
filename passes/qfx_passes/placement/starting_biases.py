"""Biases that training starts with: those of the layers of a quantized model.

A bias is set; of a folded one, beta of the batch-norm moves by the difference, and what float32
can't hold of that is added in the fold.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.graph import meta
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import bound, is_op
from qfx_passes.operands import parameter_value


def take_bias(node: fx.Node, wanted: Tensor, rw: Rewriter) -> None:
    """Let the bias of a layer, folded or not, be ``wanted``."""
    bias = bound(node)["bias"]
    if bias is None:
        hint = f"{meta.module_path(node) or node.name}.bias_shift"
        shift = rw.constant(hint, wanted.clone(), origins=(node,))
        rw.update(node, args=(*node.args, shift))
    elif is_op(bias, vocab.FOLD_BIAS):
        _shift_fold(bias, wanted, rw)
    else:
        with torch.no_grad():
            parameter_value(bias, rw).copy_(wanted)


@torch.no_grad()
def _shift_fold(fold: fx.Node, wanted: Tensor, rw: Rewriter) -> None:
    """Let a folded bias be ``wanted``."""
    arguments = bound(fold)
    tensors = {n: rw.tensor(v) for n, v in arguments.items() if isinstance(v, fx.Node)}

    def missing() -> Tensor:
        exact = {name: tensor.double() for name, tensor in tensors.items()}
        folded: Tensor = vocab.FOLD_BIAS(**exact, eps=arguments["eps"])
        return wanted.double() - folded

    if not (wanted != vocab.FOLD_BIAS(**tensors, eps=arguments["eps"])).any():
        return
    if "beta" in tensors:
        tensors["beta"].add_(missing().to(tensors["beta"].dtype))
    hint = str(arguments["mean"].target).removesuffix("running_mean") + "bias_shift"
    with rw.at(fold):
        shift = rw.constant(hint, missing(), origins=(fold,))
    names = ("mean", "var", "gamma", "beta", "bias")
    rw.update(fold, args=(*(arguments[name] for name in names), shift))
