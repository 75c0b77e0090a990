"""What canonical arguments need beyond a change of names, one small function per operation.

Integers of convolutions and pools become tuples, implicit arguments explicit, lists tuples; padding
that a kernel does not take becomes a PAD of its own. An adapter changes the arguments in place, or
returns a Mismatch, which leaves the call as it was written.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import fx

from qfx import vocab
from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import OpDef

Arguments: TypeAlias = "dict[str, Any]"

ADAPTIVE = tuple(op for op in vocab.ops() if op.name.startswith("adaptive"))


@dataclass(frozen=True)
class Site:
    """The call that is being read."""

    node: fx.Node
    rewriter: Rewriter

    def pad(self, input: Any, spread: Sequence[int], mode: str = "constant") -> fx.Node:
        """A PAD of ``input`` before the call."""
        return self.rewriter.call(
            vocab.PAD, input, pad=tuple(spread), mode=mode, origins=(self.node,)
        )


class Held(str):
    """Name of a parameter or buffer of the module at hand."""


def _ints(value: Any, dims: int) -> tuple[int, ...] | None:
    """``value`` as ``dims`` integers, or None if it isn't made of integers."""
    values = (value,) * dims if isinstance(value, int) else value
    if not isinstance(values, (tuple, list)) or not all(type(v) is int for v in values):
        return None
    return tuple(values) * (dims if len(values) == 1 else 1)


def _is_computed(value: Any) -> bool:
    values = value if isinstance(value, (tuple, list)) else (value,)
    return any(isinstance(v, fx.Node) for v in values)


def _computed(name: str) -> Mismatch:
    return Mismatch("its {0} is computed when the model runs, from a shape, say", name)


def _expand(arguments: Arguments, dims: int, *names: str) -> Mismatch | None:
    for name in names:
        if name not in arguments or arguments[name] is None:
            continue
        if _is_computed(arguments[name]):
            return _computed(name)
        expanded = _ints(arguments[name], dims)
        if expanded is None or len(expanded) != dims:
            return Mismatch("{0}={1} is not {2} integers", name, arguments[name], dims)
        arguments[name] = expanded
    return None


def _rank(value: Any) -> int | None:
    info = meta.tensor_info(value) if isinstance(value, fx.Node) else None
    return None if info is None else len(info.shape)


def _dims(op: OpDef) -> int:
    return int(op.name[-2])  # "conv2d"


def _conv(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    dims, mode = _dims(op), arguments.pop("padding_mode", "zeros")
    padding = arguments.get("padding", 0)
    if isinstance(padding, str):
        arguments.pop("padding")
    failed = _expand(arguments, dims, "stride", "padding", "dilation")
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


def _groups(arguments: Arguments, site: Site) -> Mismatch | None:
    """Settle groups that are computed: they must be channels of the input over the weight's.

    That holds for as long as the weight does: one that is made from inputs has other groups for
    other batches.
    """
    groups = arguments.get("groups")
    if not isinstance(groups, fx.Node):
        return None
    info, shape = meta.tensor_info(arguments["input"]), _weight_shape(arguments["weight"], site)
    if info is None or shape is None or not _is_held(arguments["weight"]):
        return _computed("groups")
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
        if isinstance(each, Held) or each in seen:
            continue
        if each.op != "get_attr" and not each.all_input_nodes:
            return False
        seen.add(each)
        stack.extend(each.all_input_nodes)
    return True


def _spread_of(
    padding: Any, dims: int, arguments: Arguments, site: Site
) -> tuple[tuple[int, ...], tuple[int, ...]] | Mismatch:
    """Padding before and after, per dimension: ``total = dilation * (kernel - 1)`` for "same"."""
    if padding == "valid":
        return (0,) * dims, (0,) * dims
    if padding != "same":
        each = arguments.get("padding", (0,) * dims)
        return each, each
    shape = _weight_shape(arguments["weight"], site)
    if shape is None:
        return Mismatch("padding='same' around a weight of unknown shape")
    dilation = arguments.get("dilation", (1,) * dims)
    total = [d * (k - 1) for d, k in zip(dilation, shape[2:], strict=True)]
    return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)


def _weight_shape(weight: Any, site: Site) -> tuple[int, ...] | None:
    if isinstance(weight, Held):
        return tuple(getattr(site.rewriter.module(site.node), weight).shape)
    info = meta.tensor_info(weight) if isinstance(weight, fx.Node) else None
    return None if info is None else info.shape


def _conv_transpose(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    if arguments.pop("padding_mode", "zeros") != "zeros":
        return Mismatch("padding_mode of a transposed convolution")
    if _is_computed(arguments.get("groups")):
        return _computed("groups")
    return _expand(arguments, _dims(op), "stride", "padding", "output_padding", "dilation")


def _pool(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    failed = _expand(arguments, _dims(op), "kernel_size", "stride", "padding", "dilation")
    if failed is not None:
        return failed
    if arguments.get("stride") == arguments["kernel_size"] or not arguments.get("stride"):
        arguments.pop("stride", None)
    return None


def _adaptive_pool(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    if arguments.pop("return_indices", False):
        return Mismatch("the indices are returned, too")
    size, dims = arguments["output_size"], _dims(op)
    if _is_computed(size):
        return _computed("output_size")
    sizes = (size,) * dims if isinstance(size, int) or size is None else tuple(size)
    sizes = sizes * dims if len(sizes) == 1 else sizes
    if len(sizes) != dims or not all(s is None or type(s) is int for s in sizes):
        return Mismatch("output_size={0} is not {1} integers", size, dims)
    arguments["output_size"] = sizes
    return None


def _linear(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    rank = _rank(arguments["weight"])
    return None if rank is None or rank == 2 else Mismatch("a weight of {0} dims", rank)


def _clamp(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    bounds = [arguments.get("min"), arguments.get("max")]
    if any(isinstance(b, fx.Node) for b in bounds):
        return _computed("bound")
    return None


def _softmax(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    if arguments.get("dim") is not None:
        return None
    rank = _rank(arguments["input"])
    if rank is None:
        return Mismatch("softmax without dim of a tensor of unknown rank")
    arguments["dim"] = 0 if rank in (0, 1, 3) else 1  # as torch chooses
    return None


def _batch_norm(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    if site.node.op == "call_module" and site.rewriter.module(site.node).training:
        return Mismatch("batch norm in training mode")
    if arguments.get("running_mean") is None or arguments.get("running_var") is None:
        return Mismatch("the statistics are those of the batch, not tracked ones")
    return None


def _layer_norm(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    shape = arguments["normalized_shape"]
    if _is_computed(shape):  # it must be that of the weight
        shape = _weight_shape(arguments.get("weight"), site)
    shape = _ints(shape, 1)
    if shape is None:
        return _computed("normalized_shape")
    arguments["normalized_shape"] = shape
    return None


def _group_norm(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    return _computed("num_groups") if _is_computed(arguments["num_groups"]) else None


def _instance_norm(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    if site.node.op != "call_module":
        return None
    module = site.rewriter.module(site.node)
    if getattr(module, "running_mean", None) is not None:
        return Mismatch("instance norm with tracked statistics")
    rank, dims = _rank(arguments["input"]), int(type(module).__name__[-2])
    if rank != dims + 2:
        return Mismatch("instance norm of an input without a batch dimension")
    return None


def _reduce(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    dim = arguments.get("dim")
    if isinstance(dim, list):
        dim = tuple(dim)
    if isinstance(dim, tuple) and len(dim) == 1:
        dim = dim[0]
    if dim == () or dim is None:
        arguments.pop("dim", None)
        return None if not arguments.get("keepdim") else Mismatch("keepdim without dim")
    arguments["dim"] = dim
    return None


def _lookup(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    if arguments.pop("max_norm", None) is None:
        return None
    return Mismatch("max_norm overwrites the weight whenever the model runs")


def _shape(name: str) -> Callable[[OpDef, Arguments, Site], Mismatch | None]:
    def adapt(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
        value = arguments.get(name)
        if isinstance(value, (torch.dtype, str)):
            return Mismatch("{0}={1} is no shape", name, value)
        if isinstance(value, fx.Node):
            return None  # a whole torch.Size, computed
        arguments[name] = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        return None

    return adapt


def _spread_shape(name: str) -> Callable[[OpDef, Arguments, Site], Mismatch | None]:
    plain = _shape(name)

    def adapt(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
        value = arguments.get(name)
        only = value[0] if isinstance(value, tuple) and len(value) == 1 else None
        if isinstance(only, torch.dtype):
            return Mismatch("a view as another dtype")
        if isinstance(only, fx.Node) and meta.value_of(only) is not None:  # x.view(y.shape)
            arguments[name] = only
            return None
        return plain(op, arguments, site)

    return adapt


def _transpose(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    if "dim0" in arguments:
        return None
    if _rank(arguments["input"]) != 2:
        return Mismatch("t() of a tensor that is no matrix")
    arguments.update(dim0=0, dim1=1)
    return None


def _tuple(name: str) -> Callable[[OpDef, Arguments, Site], Mismatch | None]:
    def adapt(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
        if isinstance(arguments.get(name), list):
            arguments[name] = tuple(arguments[name])
        return None

    return adapt


def _roll(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    for name in ("shifts", "dims"):
        if isinstance(arguments.get(name), list):
            arguments[name] = tuple(arguments[name])
    if arguments.get("dims") is None:
        arguments.pop("dims", None)
    return None


def _repeat_interleave(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    if isinstance(arguments.get("repeats"), fx.Node) and _rank(arguments["repeats"]) is not None:
        return Mismatch("a tensor of repeats")
    return None


def _pad(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    if not isinstance(arguments["pad"], (tuple, list)):
        return Mismatch("pad={0} is computed", arguments["pad"])
    arguments["pad"] = tuple(arguments["pad"])
    if arguments.get("value") == 0:
        arguments.pop("value")
    return None


def _arithmetic(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    first, second = arguments["input"], arguments["other"]
    if op.commutative and not _is_tensor(first) and _is_tensor(second):
        if arguments.get("alpha", 1) != 1:
            return Mismatch("alpha scales the number, not the tensor")
        arguments["input"], arguments["other"] = second, first
    return None


def _divide(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    if site.node.target in _FLOOR_DIVISIONS:
        arguments["rounding_mode"] = "floor"
    if arguments.get("rounding_mode") and not _is_tensor(arguments["input"]):
        return Mismatch("a number divided by a tensor, rounded")
    return None


def _is_tensor(value: Any) -> bool:
    return isinstance(value, fx.Node) and meta.tensor_info(value) is not None


_FLOOR_DIVISIONS = (operator.floordiv, operator.ifloordiv, torch.floor_divide, "floor_divide")


def _join(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    if isinstance(arguments["tensors"], fx.Node):
        return Mismatch("the list of tensors is computed")
    arguments["tensors"] = list(arguments["tensors"])
    return None


Adapter: TypeAlias = "Callable[[OpDef, Arguments, Site], Mismatch | None]"

ADAPTERS: dict[OpDef, Adapter] = {
    **dict.fromkeys(vocab.CONVOLUTIONS, _conv),
    **dict.fromkeys(vocab.TRANSPOSED, _conv_transpose),
    **dict.fromkeys(vocab.MAX_POOLS, _pool),
    **dict.fromkeys(vocab.AVG_POOLS, _pool),
    **dict.fromkeys(ADAPTIVE, _adaptive_pool),
    **dict.fromkeys((vocab.SOFTMAX, vocab.LOG_SOFTMAX), _softmax),
    **dict.fromkeys((vocab.MEAN, vocab.SUM, vocab.AMAX, vocab.AMIN), _reduce),
    **dict.fromkeys((vocab.ADD, vocab.SUB, vocab.MUL), _arithmetic),
    **dict.fromkeys((vocab.CAT, vocab.STACK), _join),
    **dict.fromkeys((vocab.EMBEDDING, vocab.EMBEDDING_BAG), _lookup),
    vocab.DIV: _divide,
    vocab.CLAMP: _clamp,
    vocab.LINEAR: _linear,
    vocab.BATCH_NORM: _batch_norm,
    vocab.LAYER_NORM: _layer_norm,
    vocab.GROUP_NORM: _group_norm,
    vocab.INSTANCE_NORM: _instance_norm,
    vocab.RESHAPE: _spread_shape("shape"),
    vocab.EXPAND: _spread_shape("size"),
    vocab.REPEAT: _spread_shape("repeats"),
    vocab.PERMUTE: _shape("dims"),
    vocab.FLIP: _shape("dims"),
    vocab.UNFLATTEN: _shape("sizes"),
    vocab.TRANSPOSE: _transpose,
    vocab.SQUEEZE: _tuple("dim"),
    vocab.SPLIT: _tuple("split_size_or_sections"),
    vocab.ROLL: _roll,
    vocab.REPEAT_INTERLEAVE: _repeat_interleave,
    vocab.PAD: _pad,
}
"""Arithmetic on the arguments of an operation, in place; a Mismatch leaves the call as written."""
