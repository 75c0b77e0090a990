"""The table of kernels on PyTorch's quantized dtypes, as rows for one packing engine.

fbgemm and qnnpack run the same ``torch.ops.quantized`` kernels and differ in little: what an engine
does not take is an argument here.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from qfx import vocab
from qfx.backends.base import (
    MOVES,
    Demand,
    Emit,
    KernelRule,
    Output,
    WeightRule,
    follows,
    pulls,
)
from qfx.backends.defaults import PROBABILITY, SIGNED_UNIT
from qfx.backends.quantized import dtypes as q
from qfx.backends.quantized import dynamic, recurrent
from qfx.backends.quantized import embeddings as quantized_embeddings
from qfx.backends.quantized.calls import (
    batch_norm,
    elu,
    leaky_relu,
    matmul,
    max_pool,
    pad,
    with_own_qparams,
)
from qfx.backends.quantized.convs import RELU_CLAMP, convolutions, transposed
from qfx.backends.quantized.layouts import in_order_op, on_contiguous, on_tidy, same_op
from qfx.backends.quantized.limits import (
    affine,
    all_bits,
    batched,
    equal_ranks,
    groups_of_many,
    image,
    interpolates,
    no_indices,
    pads,
    plain_add,
    tensor_or_number,
)
from qfx.backends.stored_weights import emitters as weight_emit
from qfx.backends.stored_weights import packs
from qfx.backends.stored_weights.recurrent import restored

_OTHER_MOVES = (
    *(vocab.ROLL, vocab.GATHER, vocab.CHANNEL_SHUFFLE),
    *(vocab.SORT_VALUES, vocab.TOPK_VALUES, vocab.TAKE_ALONG_DIM),
)
"""Those without a kernel for quantized dtypes, and one with a row of its own."""


def quantized_rules(engine: str, *, transposed_per_channel: bool) -> tuple[KernelRule, ...]:
    """The rows for ``engine``.

    Args:
        engine: name of the packing engine.
        transposed_per_channel: whether transposed convolutions take a scale per output channel.
    """
    return (
        *convolutions(engine),
        *transposed(engine, transposed_per_channel),
        *_products(engine),
        *quantized_embeddings.lookups(engine),
        *_recurrent(engine),
        *_norms(),
        *_activations(engine),
        *_pools(),
        *(pulls(op, op.name) for op in MOVES if op not in _OTHER_MOVES),
        pulls(vocab.CHANNEL_SHUFFLE, "channel_shuffle", supports=image),
        pulls(vocab.PAD, "pad", pad, supports=pads),
        replace(pulls(vocab.CAT, "cat", q.cat, operands=("tensors",)), requantizes=True),
        pulls(vocab.STACK, "stack", operands=("tensors",)),
    )


def _products(engine: str) -> tuple[KernelRule, ...]:
    both = ("input", "other")
    return (
        *KernelRule(
            vocab.LINEAR, "quantized.linear", weight=WeightRule(halves=True), post=RELU_CLAMP
        ).for_methods(
            {
                "static": q.packed_kernel("linear", engine),
                "dynamic": dynamic.linear(engine),
                "weight_only": _weight_only(engine),
            }
        ),
        KernelRule(
            vocab.MATMUL, "quantized.matmul", operands=both, supports=equal_ranks, emit=matmul
        ),
        KernelRule(
            vocab.ADD,
            "quantized.add",
            operands=both,
            post=(("relu",),),
            supports=plain_add,
            emit=q.binary("add"),
        ),
        KernelRule(
            vocab.MUL,
            "quantized.mul",
            operands=both,
            post=(("relu",),),
            supports=tensor_or_number,
            emit=q.binary("mul"),
        ),
    )


def _weight_only(engine: str) -> Emit:
    """Linear layers over weights in few bits; only fbgemm packs halves."""
    halves = () if engine == "qnnpack" else (packs.FBGEMM_HALF,)
    return weight_emit.linear(packs.INT8, packs.INT4, *halves)


def _recurrent(engine: str) -> tuple[KernelRule, ...]:
    kept = WeightRule(halves=True)
    return (
        *(
            row
            for op in recurrent.OPS
            for row in KernelRule(
                op, f"quantized_{op.name.removesuffix('_cell')}", weight=kept
            ).for_methods({"dynamic": recurrent.layer(op, engine), "weight_only": restored})
        ),
        *(
            KernelRule(op, "dequantized weights", weight=kept, emit=restored, method="weight_only")
            for op in vocab.RECURRENT
            if op not in recurrent.OPS
        ),
    )


def _norms() -> tuple[KernelRule, ...]:
    ops = torch.ops.quantized
    return (
        KernelRule(
            vocab.BATCH_NORM,
            "quantized.batch_norm",
            post=(("relu",),),
            supports=affine,
            emit=batch_norm,
        ),
        KernelRule(
            vocab.LAYER_NORM,
            "quantized.layer_norm",
            emit=q.with_output(ops.layer_norm.default, "normalized_shape", "weight", "bias", "eps"),
        ),
        KernelRule(
            vocab.GROUP_NORM,
            "quantized.group_norm",
            supports=groups_of_many,
            emit=on_contiguous(
                q.with_output(ops.group_norm.default, "num_groups", "weight", "bias", "eps")
            ),
        ),
        KernelRule(
            vocab.INSTANCE_NORM,
            "quantized.instance_norm",
            emit=on_contiguous(q.with_output(ops.instance_norm.default, "weight", "bias", "eps")),
        ),
    )


def _activations(engine: str) -> tuple[KernelRule, ...]:
    # quantized.prelu is missing on purpose: it is wrong by dozens of steps (torch 2.13).
    ops = torch.ops.quantized
    return (
        follows(vocab.RELU, "relu"),
        follows(vocab.CLAMP, "clamp", supports=q.two_sided),
        KernelRule(
            vocab.HARDSWISH, "quantized.hardswish", emit=q.with_output(ops.hardswish.default)
        ),
        KernelRule(vocab.ELU, "quantized.elu", emit=elu),
        KernelRule(vocab.LEAKY_RELU, "quantized.leaky_relu", emit=leaky_relu),
        KernelRule(
            vocab.SIGMOID,
            "quantized.sigmoid",
            output=Output.FIXED,
            fixed=PROBABILITY,
            emit=q.with_output(ops.sigmoid.default),
        ),
        KernelRule(
            vocab.HARDSIGMOID,
            "hardsigmoid",
            output=Output.FIXED,
            fixed=PROBABILITY,
            supports=all_bits(engine),
            emit=with_own_qparams(F.hardsigmoid, PROBABILITY),
        ),
        KernelRule(
            vocab.TANH,
            "tanh",
            output=Output.FIXED,
            fixed=SIGNED_UNIT,
            supports=all_bits(engine),
            emit=with_own_qparams(torch.tanh, SIGNED_UNIT),
        ),
        KernelRule(
            vocab.SOFTMAX,
            "quantized.softmax",
            Demand.FOLLOWS,  # what feeds it may hold the -inf of a mask
            output=Output.FIXED,
            fixed=PROBABILITY,
            emit=q.with_output(ops.softmax.default, "dim"),
        ),
    )


def _pools() -> tuple[KernelRule, ...]:
    return (
        *(
            pulls(op, op.name, on_tidy(max_pool, dims), supports=no_indices)
            for dims, op in enumerate(vocab.MAX_POOLS, start=1)
        ),
        *(
            follows(op, op.name, on_tidy(same_op, dims), supports=batched)
            for ops in (vocab.AVG_POOLS, vocab.ADAPTIVE_AVG_POOLS)
            for dims, op in enumerate(ops, start=1)
        ),
        follows(vocab.MEAN, "mean", in_order_op),
        follows(vocab.INTERPOLATE, "interpolate", on_tidy(same_op), supports=interpolates),
    )
