"""A constant factor or summand of each channel behind a layer, as that layer's own weight and bias.

    (W x + b) * s  =  (W * s) x + b * s
    (W x + b) + t  =  W x + (b + t)

So are batch-norms written whose statistics are frozen (``FrozenBatchNorm2d`` of torchvision, of
which all its detectors with trained backbones are made, and of DETR), and scales of residual
branches. Computed in float64, and rounded once.

Assumed: the operand is a constant with an element a channel, and shaped so that it goes along the
channels of the layer: the last dim of a linear, dim 1 of a convolution.
"""

from __future__ import annotations

from torch import fx

from qfx import vocab
from qfx.graph import meta
from qfx.graph.overlap import memory_of
from qfx.rewrite import Mismatch, Rewriter
from qfx.semantics.folding import scale_channels
from qfx_passes.fusion.batch_norm_folds import ChangedMemory


def refusal(layer: fx.Node, operation: fx.Node, operand: fx.Node, rw: Rewriter) -> Mismatch | None:
    """Why an operation with a constant operand can't be folded into ``layer``, or None."""
    of_layer = vocab.bound(layer)
    constants = [n for n in (of_layer["weight"], of_layer["bias"], operand) if n is not None]
    for node in (layer, operation):
        if node.kwargs.get("post"):
            return Mismatch("{0} has post-ops already: fold before fusing those", node)
    for node in constants:
        if node.op != "get_attr":
            return Mismatch("%{0} is computed, not a constant", node)
        if memory_of(rw.tensor(node)) in rw.analysis(ChangedMemory):
            return Mismatch("%{0} is changed in place when the model runs", node)
    result, own = meta.tensor_info(layer), meta.tensor_info(operand)
    if result is None or own is None or meta.tensor_info(operation) != result:
        return Mismatch("{0} changes the shape or the dtype of {1}", operation, layer)
    channels = _channels(layer, len(result.shape))
    if channels is None:
        text = "dim 1 of the rank-{1} result of {0} is not its channel dim"
        return Mismatch(text, layer, len(result.shape))
    spread = (1,) * (len(result.shape) - len(own.shape)) + own.shape
    wanted = tuple(n if dim == channels else 1 for dim, n in enumerate(result.shape))
    if spread != wanted:
        return Mismatch("%{0} is not one number a channel of {1}", operand, layer)
    return None


def _channels(layer: fx.Node, rank: int) -> int | None:
    if layer.target is vocab.LINEAR:
        return rank - 1
    weight = meta.tensor_info(vocab.bound(layer)["weight"])
    return 1 if weight is not None and len(weight.shape) == rank else None


def scaled(layer: fx.Node, factor: fx.Node, rw: Rewriter) -> fx.Node:
    """``layer`` with weight and bias times ``factor``."""
    of_layer, by = vocab.bound(layer), rw.tensor(factor).detach().double().flatten()
    weight, bias = of_layer["weight"], of_layer["bias"]
    groups, transposed = of_layer.get("groups", 1), layer.target in vocab.TRANSPOSED
    kept = rw.tensor(weight).detach()
    new = scale_channels(kept.double(), by, groups=groups, transposed=transposed)
    made = rw.constant(str(weight.target), new.to(kept.dtype))
    if bias is not None:
        kept = rw.tensor(bias).detach()
        bias = rw.constant(str(bias.target), (kept.double() * by).to(kept.dtype))
    return rw.with_args(layer, layer.args[0], made, bias)


def shifted(layer: fx.Node, summand: fx.Node, by: float, rw: Rewriter) -> fx.Node:
    """``layer`` with ``by`` times ``summand`` added to its bias."""
    of_layer, added = vocab.bound(layer), rw.tensor(summand).detach().flatten()
    weight, bias = of_layer["weight"], of_layer["bias"]
    new = added.double() * by
    if bias is not None:
        new += rw.tensor(bias).detach().double()
    owner, dot, _ = str(weight.target).rpartition(".")
    name = f"{owner}{dot}bias" if bias is None else str(bias.target)
    return rw.with_args(layer, layer.args[0], weight, rw.constant(name, new.to(added.dtype)))
