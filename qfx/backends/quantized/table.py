"""The table of kernels on PyTorch's quantized dtypes, as rows for one packing engine.

fbgemm and qnnpack run the same ``torch.ops.quantized`` kernels and differ in little: what an engine
does not take is an argument here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from qfx import vocab
from qfx.backends.base import (
    MOVES,
    Demand,
    Emit,
    Emitter,
    KernelRule,
    LoweringSite,
    Output,
    Supports,
    WeightRule,
    follows,
    pulls,
)
from qfx.backends.quantized import dtypes as q
from qfx.backends.quantized import dynamic, recurrent
from qfx.backends.quantized import embeddings as quantized_embeddings
from qfx.backends.quantized.convs import RELU_CLAMP, convolutions, transposed
from qfx.backends.quantized.layouts import contiguous_op, in_order_op, on_tidy, same_op
from qfx.backends.quantized.saturation import reduces
from qfx.backends.stored_weights import emitters as weight_emit
from qfx.backends.stored_weights import packs
from qfx.backends.stored_weights.recurrent import restored
from qfx.graph import meta
from qfx.quant.qparams import QParams
from qfx.rewrite.pattern import Mismatch

_PROBABILITY = QParams(1 / 256, 0, torch.uint8, 0, 255)
_SIGNED_UNIT = QParams(2 / 256, 128, torch.uint8, 0, 255)


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
        *(pulls(op, op.name) for op in MOVES if op not in (vocab.ROLL, vocab.CHANNEL_SHUFFLE)),
        pulls(vocab.CHANNEL_SHUFFLE, "channel_shuffle", supports=_image),
        pulls(vocab.PAD, "pad", _pad, supports=_pads),
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
            vocab.MATMUL, "quantized.matmul", operands=both, supports=_equal_ranks, emit=_matmul
        ),
        KernelRule(
            vocab.ADD,
            "quantized.add",
            operands=both,
            post=(("relu",),),
            supports=_plain_add,
            emit=q.binary("add"),
        ),
        KernelRule(
            vocab.MUL,
            "quantized.mul",
            operands=both,
            post=(("relu",),),
            supports=_tensor_or_number,
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


def _with_own_qparams(kernel: Callable[..., Any], own: QParams) -> Emit:
    """Emits a kernel whose result has the qparams ``own``, whatever is asked for."""

    def emit(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
        asked = q.output_of(site)
        if (asked.scale, asked.zero_point) != (own.scale, own.zero_point):
            return Mismatch(
                "the kernel's scale is always {0}, and its group shares another", own.scale
            )
        return q.call(em, site, kernel, q.integer(site))

    return emit


def _norms() -> tuple[KernelRule, ...]:
    ops = torch.ops.quantized
    return (
        KernelRule(
            vocab.BATCH_NORM,
            "quantized.batch_norm",
            post=(("relu",),),
            supports=_affine,
            emit=_batch_norm,
        ),
        KernelRule(
            vocab.LAYER_NORM,
            "quantized.layer_norm",
            emit=q.with_output(ops.layer_norm.default, "normalized_shape", "weight", "bias", "eps"),
        ),
        KernelRule(
            vocab.GROUP_NORM,
            "quantized.group_norm",
            supports=_groups_of_many,
            emit=on_tidy(
                q.with_output(ops.group_norm.default, "num_groups", "weight", "bias", "eps")
            ),
        ),
        KernelRule(
            vocab.INSTANCE_NORM,
            "quantized.instance_norm",
            emit=on_tidy(q.with_output(ops.instance_norm.default, "weight", "bias", "eps")),
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
        KernelRule(vocab.ELU, "quantized.elu", emit=_elu),
        KernelRule(vocab.LEAKY_RELU, "quantized.leaky_relu", emit=_leaky_relu),
        KernelRule(
            vocab.SIGMOID,
            "quantized.sigmoid",
            output=Output.FIXED,
            fixed=_PROBABILITY,
            emit=q.with_output(ops.sigmoid.default),
        ),
        KernelRule(
            vocab.HARDSIGMOID,
            "hardsigmoid",
            output=Output.FIXED,
            fixed=_PROBABILITY,
            supports=_all_bits(engine),
            emit=_with_own_qparams(F.hardsigmoid, _PROBABILITY),
        ),
        KernelRule(
            vocab.TANH,
            "tanh",
            output=Output.FIXED,
            fixed=_SIGNED_UNIT,
            supports=_all_bits(engine),
            emit=_with_own_qparams(torch.tanh, _SIGNED_UNIT),
        ),
        KernelRule(
            vocab.SOFTMAX,
            "quantized.softmax",
            Demand.FOLLOWS,  # what feeds it may hold the -inf of a mask
            output=Output.FIXED,
            fixed=_PROBABILITY,
            emit=q.with_output(ops.softmax.default, "dim"),
        ),
    )


def _pools() -> tuple[KernelRule, ...]:
    return (
        *(
            pulls(op, op.name, on_tidy(_max_pool, dims), supports=_no_indices)
            for dims, op in enumerate(vocab.MAX_POOLS, start=1)
        ),
        *(
            follows(op, op.name, on_tidy(same_op, dims), supports=_batched)
            for ops in (vocab.AVG_POOLS, vocab.ADAPTIVE_AVG_POOLS)
            for dims, op in enumerate(ops, start=1)
        ),
        follows(vocab.MEAN, "mean", in_order_op),
        follows(vocab.INTERPOLATE, "interpolate", on_tidy(same_op), supports=_interpolates),
    )


# -- what kernels take ------------------------------------------------------------------------
def _equal_ranks(node: fx.Node) -> Mismatch | None:
    infos = [meta.tensor_info(v) for v in node.all_input_nodes[:2]]
    shapes = [i.shape for i in infos if i is not None]
    if len(shapes) != 2 or shapes[0][:-2] != shapes[1][:-2] or len(shapes[0]) < 2:
        return Mismatch("the quantized matmul needs two tensors with the same leading dims")
    return None


def _plain_add(node: fx.Node) -> Mismatch | None:
    if node.kwargs.get("alpha", 1) != 1:
        return Mismatch("alpha={0} is not 1", node.kwargs["alpha"])
    return _tensor_or_number(node)


def _tensor_or_number(node: fx.Node) -> Mismatch | None:
    for operand in node.args:
        if isinstance(operand, (int, float)) and not isinstance(operand, bool):
            continue
        if not isinstance(operand, fx.Node) or not meta.is_float_tensor(operand):
            return Mismatch("an operand is neither a float tensor nor a number")
    return None


def _affine(node: fx.Node) -> Mismatch | None:
    parameters = vocab.bound(node)
    if parameters["weight"] is None or parameters["bias"] is None:
        return Mismatch("the quantized batch_norm needs weight and bias")
    return None


def _groups_of_many(node: fx.Node) -> Mismatch | None:
    """Refuse groups of one value, the variance of which the kernel gets wrong (torch 2.13)."""
    info = meta.tensor_info(node)
    if info is not None and math.prod(info.shape[1:]) == vocab.bound(node)["num_groups"]:
        return Mismatch("the quantized group_norm needs more than one value a group")
    return None


def _all_bits(engine: str) -> Supports:
    """What kernels take whose result always has 8 bits."""

    def supports(node: fx.Node) -> Mismatch | None:
        if not reduces(engine):
            return None
        return Mismatch(
            "the result of the quantized {0} has 8 bits, which saturate in the layers of this CPU",
            node.target.name,  # type: ignore[union-attr]
        )

    return supports


def _no_indices(node: fx.Node) -> Mismatch | None:
    return Mismatch("return_indices=True") if node.kwargs.get("return_indices") else _batched(node)


def _batched(node: fx.Node) -> Mismatch | None:
    """Refuse volumes without a batch, for which no pool is made."""
    info = meta.tensor_info(node)
    if info is None or len(info.shape) != 4 or not node.target.name.endswith("3d"):  # type: ignore[union-attr]
        return None
    return Mismatch("the quantized pools of volumes need a batch dimension: {0}", list(info.shape))


def _image(node: fx.Node) -> Mismatch | None:
    info = meta.tensor_info(node)
    rank = len(info.shape) if info else 0
    return None if rank == 4 else Mismatch("the quantized channel_shuffle takes 4 dims: {0}", rank)


def _pads(node: fx.Node) -> Mismatch | None:
    arguments, info = vocab.bound(node), meta.tensor_info(node)
    mode, value, pads = arguments["mode"], arguments["value"], arguments["pad"]
    if mode not in ("constant", "reflect") or value not in (None, 0, 0.0):
        return Mismatch(
            "the quantized pad fills with zeros or reflects; asked: {0}, {1}", mode, value
        )
    if not isinstance(pads, (tuple, list)) or not all(isinstance(p, int) for p in pads):
        return Mismatch("the quantized pad takes numbers, not {0}", pads)
    if mode == "reflect" and len(pads) > 4:
        return Mismatch("the quantized pad reflects in one or two dims, not {0}", len(pads) // 2)
    if info is None or len(info.shape) < 5:
        return None
    if min(pads) < 0 < max(pads):
        return Mismatch(
            "the quantized pad of {0}-d tensors crops or pads, not both", len(info.shape)
        )
    return None


def _interpolates(node: fx.Node) -> Mismatch | None:
    info, arguments = meta.tensor_info(node), vocab.bound(node)
    mode, rank = arguments["mode"], len(info.shape) if info else 0
    if (rank, mode) not in ((4, "nearest"), (4, "bilinear"), (5, "nearest")):
        return Mismatch("no quantized kernel for mode {0} of {1}-d tensors", mode, rank)
    if arguments.get("antialias"):
        return Mismatch("no quantized kernel for antialias=True")
    return None


def _pad(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    """Padding; of volumes only in order, for what copies them knows no other format."""
    info = meta.tensor_info(site.node)
    is_volume = info is not None and len(info.shape) > 4
    return (contiguous_op if is_volume else same_op)(em, site)


# -- calls that no pattern covers -------------------------------------------------------------
def _matmul(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    output = q.output_of(site)
    operands = (q.integer(site, "input"), q.integer(site, "other"))
    kernel = torch.ops.quantized.matmul.default
    return q.call(em, site, kernel, *operands, output.scale, output.zero_point)


def _max_pool(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    """Pooling, with what it fills with (-inf, mostly) as near as a code comes."""
    if not site.arguments["spread"]:
        return same_op(em, site)
    operand, fill = site.arguments["input"], site.arguments["fill"]
    assert isinstance(operand, fx.Node)
    qparams = site.inputs[operand][1]
    assert isinstance(qparams, QParams)
    nearest = qparams.dequantize(qparams.quantize(torch.tensor(fill)))
    return same_op(em, site, fill=float(nearest))


def _batch_norm(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    post, output = site.arguments["post"], q.output_of(site)
    ops = torch.ops.quantized
    kernel = ops.batch_norm_relu.default if post else ops.batch_norm.default
    names = ("weight", "bias", "running_mean", "running_var", "eps")
    values = [site.arguments[n] for n in names]
    return q.call(em, site, kernel, q.integer(site), *values, output.scale, output.zero_point)


def _elu(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    output = q.output_of(site)
    tail = (output.scale, output.zero_point, site.arguments["alpha"])
    return q.call(em, site, torch.ops.quantized.elu.default, q.integer(site), *tail)


def _leaky_relu(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    output = q.output_of(site)
    tail = (site.arguments["negative_slope"], False, output.scale, output.zero_point)
    return q.call(em, site, torch.ops.quantized.leaky_relu.default, q.integer(site), *tail)
