"""What the arguments of layers need beyond a change of names, one small function per operation.

Integers of convolutions and pools become tuples; padding that a kernel does not take becomes a PAD
of its own.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from qfx import vocab
from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import OpDef
from qfx_passes.canonical.argument_values import computed, expand, integers, is_computed, rank_of
from qfx_passes.canonical.call_site import Arguments, CallSite, HeldName


def _dims(op: OpDef) -> int:
    return int(op.name[-2])  # "conv2d"


def conv(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    dims, mode = _dims(op), arguments.pop("padding_mode", "zeros")
    padding = arguments.get("padding", 0)
    if isinstance(padding, str):
        arguments.pop("padding")
    failed = expand(arguments, dims, "stride", "padding", "dilation")
    if failed is None:
        failed = _groups(arguments, site)
    if failed is not None:
        return failed
    spread = _spread_of(padding, dims, arguments, site)
    if isinstance(spread, Mismatch):
        return spread
    before, after = spread
    if mode == "zeros" and before == after:
        arguments["padding"] = before
        return None
    both = [p for pair in reversed(list(zip(before, after, strict=True))) for p in pair]
    arguments["padding"] = (0,) * dims
    arguments["input"] = site.pad(arguments["input"], both, "constant" if mode == "zeros" else mode)
    return None


def unpool(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    assert op.dims is not None
    return expand(arguments, op.dims, "kernel_size", "stride", "padding")


def _groups(arguments: Arguments, site: CallSite) -> Mismatch | None:
    """Settle groups that are computed: they must be channels of the input over the weight's.

    That holds for as long as the weight does: one that is made from inputs has other groups for
    other batches.
    """
    groups = arguments.get("groups")
    if not isinstance(groups, fx.Node):
        return None
    info, shape = meta.tensor_info(arguments["input"]), weight_shape(arguments["weight"], site)
    if info is None or shape is None or not _is_held(arguments["weight"]):
        return computed("groups")
    arguments["groups"] = info.shape[1 - len(shape)] // shape[1]
    what = f"groups of the convolution at {meta.source(site.node)}"
    site.rewriter.call(
        vocab.GUARD, groups, expected=arguments["groups"], what=what, origins=(site.node,)
    )
    return None


def _is_held(weight: Any) -> bool:
    """Whether ``weight`` is made of parameters and buffers alone."""
    stack, seen = [weight], set()
    while stack:
        each = stack.pop()
        if isinstance(each, HeldName) or each in seen:
            continue
        if each.op != "get_attr" and not each.all_input_nodes:
            return False
        seen.add(each)
        stack.extend(each.all_input_nodes)
    return True


def _spread_of(
    padding: object, dims: int, arguments: Arguments, site: CallSite
) -> tuple[tuple[int, ...], tuple[int, ...]] | Mismatch:
    """Padding before and after, per dimension: ``total = dilation * (kernel - 1)`` for "same"."""
    if padding == "valid":
        return (0,) * dims, (0,) * dims
    if padding != "same":
        each = arguments.get("padding", (0,) * dims)
        return each, each
    shape = weight_shape(arguments["weight"], site)
    if shape is None:
        return Mismatch("padding='same' around a weight of unknown shape")
    dilation = arguments.get("dilation", (1,) * dims)
    total = [d * (k - 1) for d, k in zip(dilation, shape[2:], strict=True)]
    return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)


def weight_shape(weight: object, site: CallSite) -> tuple[int, ...] | None:
    if isinstance(weight, HeldName):
        return tuple(getattr(site.rewriter.module(site.node), weight).shape)
    info = meta.tensor_info(weight) if isinstance(weight, fx.Node) else None
    return None if info is None else info.shape


def conv_transpose(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    if arguments.pop("padding_mode", "zeros") != "zeros":
        return Mismatch("padding_mode of a transposed convolution")
    if is_computed(arguments.get("groups")):
        return computed("groups")
    return expand(arguments, _dims(op), "stride", "padding", "output_padding", "dilation")


def pool(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    failed = expand(arguments, _dims(op), "kernel_size", "stride", "padding", "dilation")
    if failed is not None:
        return failed
    if arguments.get("stride") == arguments["kernel_size"] or not arguments.get("stride"):
        arguments.pop("stride", None)
    return None


def adaptive_pool(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    if arguments.pop("return_indices", False):
        return Mismatch("the indices are returned, too")
    size, dims = arguments["output_size"], _dims(op)
    if is_computed(size):
        return computed("output_size")
    sizes = (size,) * dims if isinstance(size, int) or size is None else tuple(size)
    sizes = sizes * dims if len(sizes) == 1 else sizes
    if len(sizes) != dims or not all(s is None or type(s) is int for s in sizes):
        return Mismatch("output_size={0} is not {1} integers", size, dims)
    arguments["output_size"] = sizes
    return None


def linear(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    rank = rank_of(arguments["weight"])
    return None if rank is None or rank == 2 else Mismatch("a weight of {0} dims", rank)


def batch_norm(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    if site.node.op == "call_module" and site.rewriter.module(site.node).training:
        return Mismatch("batch norm in training mode")
    if arguments.get("running_mean") is None or arguments.get("running_var") is None:
        return Mismatch("the statistics are those of the batch, not tracked ones")
    return None


def layer_norm(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    shape = arguments["normalized_shape"]
    if is_computed(shape):  # it must be that of the weight
        shape = weight_shape(arguments.get("weight"), site)
    shape = integers(shape, 1)
    if shape is None:
        return computed("normalized_shape")
    arguments["normalized_shape"] = shape
    return None


def group_norm(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    return computed("num_groups") if is_computed(arguments["num_groups"]) else None


def instance_norm(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    if site.node.op != "call_module":
        return None
    module = site.rewriter.module(site.node)
    if getattr(module, "running_mean", None) is not None:
        return Mismatch("instance norm with tracked statistics")
    rank, dims = rank_of(arguments["input"]), int(type(module).__name__[-2])
    if rank != dims + 2:
        return Mismatch("instance norm of an input without a batch dimension")
    return None


def lookup(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    if arguments.pop("max_norm", None) is None:
        return None
    return Mismatch("max_norm overwrites the weight whenever the model runs")
