"""What the kernels on PyTorch's quantized dtypes take: why not, for each that does not take all."""

from __future__ import annotations

import math

from torch import fx

from qfx import vocab
from qfx.backends.base import Supports
from qfx.backends.quantized.saturation import reduces
from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch


# -- what kernels take ------------------------------------------------------------------------
def equal_ranks(node: fx.Node) -> Mismatch | None:
    infos = [meta.tensor_info(v) for v in node.all_input_nodes[:2]]
    shapes = [i.shape for i in infos if i is not None]
    if len(shapes) != 2 or shapes[0][:-2] != shapes[1][:-2] or len(shapes[0]) < 2:
        return Mismatch("the quantized matmul needs two tensors with the same leading dims")
    return None


def plain_add(node: fx.Node) -> Mismatch | None:
    if node.kwargs.get("alpha", 1) != 1:
        return Mismatch("alpha={0} is not 1", node.kwargs["alpha"])
    return tensor_or_number(node)


def tensor_or_number(node: fx.Node) -> Mismatch | None:
    for operand in node.args:
        if isinstance(operand, (int, float)) and not isinstance(operand, bool):
            continue
        if not isinstance(operand, fx.Node) or not meta.is_float_tensor(operand):
            return Mismatch("an operand is neither a float tensor nor a number")
    return None


def affine(node: fx.Node) -> Mismatch | None:
    parameters = vocab.bound(node)
    if parameters["weight"] is None or parameters["bias"] is None:
        return Mismatch("the quantized batch_norm needs weight and bias")
    return None


def groups_of_many(node: fx.Node) -> Mismatch | None:
    """Refuse groups of one value, the variance of which the kernel gets wrong (torch 2.13)."""
    info = meta.tensor_info(node)
    if info is not None and math.prod(info.shape[1:]) == vocab.bound(node)["num_groups"]:
        return Mismatch("the quantized group_norm needs more than one value a group")
    return None


def all_bits(engine: str) -> Supports:
    """What kernels take whose result always has 8 bits."""

    def supports(node: fx.Node) -> Mismatch | None:
        if not reduces(engine):
            return None
        return Mismatch(
            "the result of the quantized {0} has 8 bits, which saturate in the layers of this CPU",
            node.target.name,  # type: ignore[union-attr]
        )

    return supports


def no_indices(node: fx.Node) -> Mismatch | None:
    return Mismatch("return_indices=True") if node.kwargs.get("return_indices") else batched(node)


def batched(node: fx.Node) -> Mismatch | None:
    """Refuse volumes without a batch, for which no pool is made."""
    info = meta.tensor_info(node)
    if info is None or len(info.shape) != 4 or not node.target.name.endswith("3d"):  # type: ignore[union-attr]
        return None
    return Mismatch("the quantized pools of volumes need a batch dimension: {0}", list(info.shape))


def image(node: fx.Node) -> Mismatch | None:
    info = meta.tensor_info(node)
    rank = len(info.shape) if info else 0
    return None if rank == 4 else Mismatch("the quantized channel_shuffle takes 4 dims: {0}", rank)


def pads(node: fx.Node) -> Mismatch | None:
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


def interpolates(node: fx.Node) -> Mismatch | None:
    info, arguments = meta.tensor_info(node), vocab.bound(node)
    mode, rank = arguments["mode"], len(info.shape) if info else 0
    if (rank, mode) not in ((4, "nearest"), (4, "bilinear"), (5, "nearest")):
        return Mismatch("no quantized kernel for mode {0} of {1}-d tensors", mode, rank)
    if arguments.get("antialias"):
        return Mismatch("no quantized kernel for antialias=True")
    return None
