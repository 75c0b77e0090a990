"""x86: oneDNN's integer kernels on plain uint8/int8 tensors, the durable form and the default.

No quantized dtype appears anywhere. Convolutions and linear layers run in integers; what has no
integer kernel that pays runs in float, and kernels hand out float directly where a consumer wants
it, so nothing is rounded for its own sake. Residual additions and activations are post-ops.
"""

from __future__ import annotations

import torch

from qfx import vocab
from qfx.backends.base import (
    MOVES,
    Backend,
    Chain,
    KernelRule,
    Output,
    WeightRule,
    pulls,
)
from qfx.backends.defaults import defaults
from qfx.backends.onednn import boundaries, kernels
from qfx.backends.onednn import convs as x86_convs
from qfx.backends.onednn import dynamic as x86_dynamic
from qfx.backends.onednn import linear as x86_linear
from qfx.backends.onednn import recurrent_emitters as x86_recurrent_emit
from qfx.backends.onednn.leave_single_rows import LeaveSingleRows
from qfx.backends.onednn.merge_products import MergeProducts
from qfx.backends.onednn.overwrite_operands import OverwriteOperands
from qfx.backends.onednn.probes import PROBES
from qfx.backends.onednn.reuse_accumulators import ReuseAccumulators
from qfx.backends.onednn.saturation import saturates
from qfx.backends.probing.probe import probe
from qfx.backends.stored_weights import emitters as weight_emit
from qfx.backends.stored_weights import packs
from qfx.backends.stored_weights.recurrent import restored

_CLAMPS: tuple[Chain, ...] = (("relu",), ("clamp",))
_RESIDUAL: tuple[Chain, ...] = (("add",), ("add", "relu"))
_CONV2D: tuple[Chain, ...] = (*_CLAMPS, ("hardswish",), ("silu",), *_RESIDUAL)
_LINEAR: tuple[Chain, ...] = (*_CONV2D, ("gelu",), ("leaky_relu",), ("tanh",))


def backend() -> Backend:
    """The x86 backend for this machine."""
    narrow = saturates()
    return Backend(
        "x86",
        (*_layers(), *_recurrent(), *weight_emit.lookups(), *_shared()),
        defaults(reduce_range=narrow),
        quantize=boundaries.quantize,
        dequantize=boundaries.dequantize,
        measure=x86_dynamic.measure,
        probe=_probe,
        passes=(MergeProducts(), ReuseAccumulators(), OverwriteOperands(), LeaveSingleRows()),
        saturates=narrow,
    )


def _probe(kernel: str, post: Chain) -> str:
    """What is wrong with a kernel here, whatever it hands out."""
    inside = tuple(name for name in post if _computes(kernel, name))
    called = [kernel]
    if kernel == "onednn.qconv2d":
        called.append("onednn.qlinear")  # what runs 1x1 convolutions
    dtypes = (torch.uint8, torch.float32)
    verdicts = (probe(name, PROBES.get(name), inside, dtype) for name in called for dtype in dtypes)
    return next((verdict.detail for verdict in verdicts if not verdict), "")


def _computes(kernel: str, post_op: str) -> bool:
    """Whether the kernel itself computes a post-op, rather than saturation or a call after it."""
    own = {f"onednn.qconv{dims}d": names for dims, names in kernels.CONV_POST_OPS.items()}
    return kernel not in own or kernels.POST_OP_NAMES.get(post_op, "none") in own[kernel]


def _convolution(dims: int, post: tuple[Chain, ...]) -> tuple[KernelRule, ...]:
    """The rows of a kernel that takes qparams as arguments, so that they may be measured."""
    row = KernelRule(
        vocab.CONVOLUTIONS[dims - 1], f"onednn.qconv{dims}d", output=Output.EITHER,
        weight=WeightRule(), post=post, supports=x86_convs.numeric_padding,
    )  # fmt: skip
    return row.for_methods(dict.fromkeys(("static", "dynamic"), x86_convs.conv(dims)))


def _layers() -> tuple[KernelRule, ...]:
    return (
        *_convolution(1, _CLAMPS),
        *_convolution(2, _CONV2D),
        *_convolution(3, _CLAMPS),
        *(
            KernelRule(
                op, f"onednn.qconv{dims}d", output=Output.EITHER, weight=WeightRule(axis=1),
                post=_CLAMPS, supports=x86_convs.undilated, emit=x86_convs.conv_transpose(dims),
            )
            for dims, op in enumerate(vocab.TRANSPOSED, start=1)
        ),
        *KernelRule(
            vocab.LINEAR, "onednn.qlinear", output=Output.EITHER, weight=WeightRule(halves=True),
            post=_LINEAR,
        ).for_methods({
            "static": x86_linear.linear,
            "dynamic": x86_linear.linear,
            "weight_only": weight_emit.linear(packs.INT8, packs.INT4, packs.ONEDNN_HALF),
        }),
    )  # fmt: skip


def _recurrent() -> tuple[KernelRule, ...]:
    return tuple(
        row
        for op in vocab.RECURRENT
        for row in KernelRule(
            op, "onednn.qlinear, by step", output=Output.EITHER, weight=WeightRule(halves=True)
        ).for_methods({"dynamic": x86_recurrent_emit.layer(op), "weight_only": restored})
    )


def _shared() -> tuple[KernelRule, ...]:
    return (
        *(pulls(op, f"uint8 {op.name}") for op in MOVES),
        *(pulls(op, f"uint8 {op.name}", operands=("tensors",)) for op in (vocab.CAT, vocab.STACK)),
        *(pulls(op, f"uint8 {op.name}") for op in (vocab.AMAX, vocab.AMIN)),
        *(pulls(op, f"uint8 {op.name}", operands=("input", "other")) for op in vocab.EXTREMES),
        pulls(
            vocab.MAX_POOL1D,
            "uint8 max_pool2d",
            boundaries.max_pool1d,
            supports=boundaries.plain_pool,
        ),
        pulls(
            vocab.MAX_POOL2D,
            "uint8 max_pool2d",
            boundaries.max_pool2d,
            supports=boundaries.plain_pool,
        ),
        pulls(vocab.PAD, "uint8 pad", boundaries.pad, supports=boundaries.zero_pad),
    )
