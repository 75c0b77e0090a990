"""How the spellings of an operation are read: from a call as written to canonical arguments.

The vocabulary says *which* spellings mean an operation; here is how their arguments map to its
signature. Most need nothing: names and order are those of torch. The exceptions are data: orders,
synonyms, arguments that must have a certain value. A call that has no canonical form yields a
Mismatch and stays as it was written.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from qfx import vocab
from qfx.graph import meta
from qfx.private_attributes import buffers_held, parameters_held
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import OpDef
from qfx_passes.canonical import recurrent
from qfx_passes.canonical.adapters import ADAPTERS
from qfx_passes.canonical.call_site import Arguments, CallSite, HeldName
from qfx_passes.canonical.functional_calls import Spelling
from qfx_passes.canonical.sizes import holds_tensor

# -- what the spellings mean, from the one table of the vocabulary ---------------------------------
MODULES: dict[type[nn.Module], OpDef] = {m: op for op in vocab.ops() for m in op.modules}
FUNCTIONS: dict[Any, OpDef] = {f: op for op in vocab.ops() for f in op.functions}
METHODS: dict[str, OpDef] = {m: op for op in vocab.ops() for m in op.methods}

# -- which arguments a spelling takes, where torch does not tell or differs ------------------------
_ORDERS: dict[Any, str] = {
    F.scaled_dot_product_attention: "query key value attn_mask dropout_p is_causal scale",
    **dict.fromkeys(("clamp_min", torch.clamp_min, torch.clamp_min_), "input min"),
    **dict.fromkeys(("clamp_max", torch.clamp_max, torch.clamp_max_), "input max"),
    torch.embedding: "weight input padding_idx scale_grad_by_freq sparse",
    F.adaptive_max_pool1d: "input output_size return_indices",
    F.adaptive_max_pool2d: "input output_size return_indices",
    F.adaptive_max_pool3d: "input output_size return_indices",
    torch.mean: "input dim keepdim dtype",
    torch.sum: "input dim keepdim dtype",
    torch.linalg.vector_norm: "input ord dim keepdim dtype",
    "mean": "input dim keepdim dtype",
    "sum": "input dim keepdim dtype",
    "where": "input condition other",
    **dict.fromkeys((torch.index_select, "index_select"), "input dim index"),
    **dict.fromkeys((torch.gather, "gather"), "input dim index sparse_grad"),
    **dict.fromkeys((torch.cumsum, "cumsum", torch.cumprod, "cumprod"), "input dim dtype"),
    **dict.fromkeys((torch.logcumsumexp, "logcumsumexp"), "input dim"),
    **dict.fromkeys((torch.take_along_dim, "take_along_dim"), "input indices dim"),
    **dict.fromkeys((torch.histc, "histc"), "input bins min max"),
    **dict.fromkeys((torch.argsort, "argsort"), "input dim descending stable"),
    **dict.fromkeys((torch.scatter, "scatter"), "input dim index src"),
    **dict.fromkeys((torch.scatter_add, "scatter_add"), "input dim index src"),
    **dict.fromkeys((torch.index_add, "index_add"), "input dim index source"),
    **dict.fromkeys((torch.scatter_reduce, "scatter_reduce"), "input dim index src reduce"),
    **dict.fromkeys((torch.index_copy, "index_copy"), "input dim index source"),
    **dict.fromkeys((torch.index_fill, "index_fill"), "input dim index value"),
    **dict.fromkeys((torch.prod, "prod"), "input dim keepdim dtype"),
    torch.layer_norm: "input normalized_shape weight bias eps cudnn_enable",
    torch.group_norm: "input num_groups weight bias eps cudnn_enabled",
    torch.batch_norm: "input weight bias running_mean running_var training momentum eps",
    torch.instance_norm: (
        "input weight bias running_mean running_var use_input_stats momentum eps cudnn_enabled"
    ),
    torch.constant_pad_nd: "input pad value",
    torch.searchsorted: "sorted_sequence input",
    torch.bucketize: "input boundaries",
    torch.linalg.matrix_norm: "input ord dim keepdim dtype",
    torch.linalg.solve: "input other",
    torch.cdist: "input other p compute_mode",
    torch.cosine_similarity: "input other dim eps",
    F.cosine_similarity: "input other dim eps",
    **dict.fromkeys((torch.tensor_split, "tensor_split"), "input sections dim"),
    torch.rms_norm: "input normalized_shape weight eps",
    torch.linalg.diagonal: "input offset dim1 dim2",
    F.bilinear: "input other weight bias",
    "repeat_interleave": "input repeats dim output_size",
    torch.repeat_interleave: "input repeats dim output_size",
}

_VARARGS = {
    "reshape": "shape",
    "view": "shape",
    "permute": "dims",
    "expand": "size",
    "repeat": "repeats",
    "flip": "dims",
}
"""Methods that take their last argument as a sequence or spread out."""

_WITH_INDICES = (
    *(F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices),
    *(F.adaptive_max_pool1d_with_indices, F.adaptive_max_pool2d_with_indices),
    F.adaptive_max_pool3d_with_indices,
)
"""What torch calls for ``return_indices=True``, whatever their own argument says."""

_IMPLIED: dict[Any, dict[str, Any]] = {
    F.relu6: {"min": 0.0, "max": 6.0},
    F.hardtanh: {"min": -1.0, "max": 1.0},
    F.upsample_nearest: {"mode": "nearest"},
    F.upsample_bilinear: {"mode": "bilinear", "align_corners": True},
    **{spelling: {"exponent": 2} for spelling in (torch.square, "square")},
}
"""Arguments whose default is not that of the operation."""

_SYNONYMS = {
    "self": "input",
    "tensor": "input",
    "x": "input",
    "indices": "input",
    **dict.fromkeys(("mat2", "vec", "input2", "x2", "B", "vec2"), "other"),
    **dict.fromkeys(("input1", "x1"), "input"),
    "A": "input",
    "axis": "dim",
    "axis0": "dim0",
    "axis1": "dim1",
    "min_val": "min",
    "max_val": "max",
    "split_size": "split_size_or_sections",
    "split_sizes": "split_size_or_sections",
    "unflattened_size": "sizes",
    "sizes": "size",
}

_IGNORED = frozenset(
    (
        *("inplace", "_stacklevel", "momentum", "norm_type", "sparse_grad"),
        *("cudnn_enable", "cudnn_enabled", "implicit"),
    )
)
_EXPECTED: dict[str, tuple[Any, ...]] = {
    "out": (None,),
    "dtype": (None,),
    "memory_format": (None, torch.contiguous_format),
    "dropout_p": (0, 0.0),
    "enable_gqa": (False,),
    "training": (False,),
    "use_input_stats": (True,),
    "return_indices": (False,),
    "output_size": (None,),
    "running_mean": (None,),
    "running_var": (None,),
    "size_average": (None,),
    "reduce": (None,),
    "weight": (None,),
    "side": (None,),
    "max_norm": (None,),
}
"""Arguments that an operation does not have, and the values that mean nothing."""


def rename_spelling(site: CallSite, call: Spelling) -> fx.Node | Mismatch | None:
    """The operation that the vocabulary knows the call as."""
    op = op_of_module(site) if call.kind == "call_module" else _op_of(call)
    if op is None:
        return None
    module = site.module
    arguments = (
        bind(call.target, op, call.args, call.kwargs)
        if module is None
        else read_module(op, module, site.node.args, site.node.kwargs)
    )
    if isinstance(arguments, Mismatch):
        return arguments
    adapt = ADAPTERS.get(op)
    failed = None if adapt is None else adapt(op, arguments, site)
    return site.becomes(op, arguments) if failed is None else failed


def op_of_module(site: CallSite) -> OpDef | None:
    """The operation that the module at hand is, if it is one of PyTorch's."""
    bases = () if site.kind is None else site.kind.__mro__
    return next((MODULES[base] for base in bases if base in MODULES), None)


def _op_of(call: Spelling) -> OpDef | None:
    if call.target is vocab.SETITEM:
        op: OpDef | None = vocab.SETITEM
    elif isinstance(call.target, str):
        op = METHODS.get(call.target)
    else:
        op = FUNCTIONS.get(call.target)
    return op if op is not None and _reads_tensor(op, call) else None


def _reads_tensor(op: OpDef, call: Spelling) -> bool:
    """Whether an operand is a tensor, as operations want (and ``2 * 3`` has not)."""
    if op is vocab.GETITEM:
        return True
    operands = [*call.args[:2], *call.kwargs.values()]
    flat = [o for each in operands for o in (each if isinstance(each, (tuple, list)) else (each,))]
    return any(isinstance(o, fx.Node) and holds_tensor(meta.value_of(o)) for o in flat)


@cache
def parameters(spelling: object, op: OpDef) -> tuple[str, ...]:
    """Names of the positional arguments of a function or method."""
    if spelling in _ORDERS:
        return tuple(_ORDERS[spelling].split())
    if inspect.isfunction(spelling):
        names = tuple(inspect.signature(spelling).parameters)
        if names[:1] != ("args",):
            return names
    return tuple(name for name in op.signature.parameters if name != "post")


def bind(
    spelling: object, op: OpDef, args: Sequence[object], kwargs: dict[str, Any]
) -> Arguments | Mismatch:
    """The arguments of a call by the names of the signature of ``op``."""
    names = parameters(spelling, op)
    if isinstance(spelling, str) and spelling in _VARARGS and len(args) > 1:
        head, *rest = args
        args = (head, _spread(rest))
        names = ("input", _VARARGS[spelling])
    if len(args) > len(names):
        return Mismatch("{0} positional arguments, of which {1} are known", len(args), len(names))
    found = {**dict(zip(names, args, strict=False)), **kwargs}
    renamed = _renamed(op, found)
    if isinstance(renamed, Mismatch):
        return renamed
    always = {"return_indices": True} if spelling in _WITH_INDICES else {}
    return {**_IMPLIED.get(spelling, {}), **renamed, **always}


def _spread(rest: list[Any]) -> Any:
    if len(rest) == 1 and isinstance(rest[0], (tuple, list)):
        return tuple(rest[0])
    return tuple(rest)


def _renamed(op: OpDef, found: Arguments) -> Arguments | Mismatch:
    known = op.signature.parameters
    arguments: Arguments = {}
    for name, value in found.items():
        canonical = name if name in known else _SYNONYMS.get(name, name)
        if canonical in arguments:
            return Mismatch("{0} and another argument mean {1}", name, canonical)
        if canonical in known:
            arguments[canonical] = value
        elif name in _IGNORED or any(_is(value, v) for v in _EXPECTED.get(name, ())):
            continue
        else:
            return Mismatch("{0}={1} has no canonical form", name, value)
    return arguments


def _is(value: object, expected: object) -> bool:
    return value is expected or (type(value) is type(expected) and bool(value == expected))


def read_module(
    op: OpDef, module: nn.Module, args: Sequence[object], kwargs: Mapping[str, object]
) -> Arguments | Mismatch:
    """The arguments that a call of ``module`` has, its parameters as names to be read later."""
    forward = inspect.signature(type(module).forward)
    try:
        given = forward.bind(module, *args, **kwargs).arguments
    except TypeError:
        return Mismatch("the call does not fit {0}", type(module).__name__)
    operands = _renamed(op, {n: v for n, v in given.items() if n != "self"})
    if isinstance(operands, Mismatch):
        return operands
    held = _MODULE_ATTRIBUTES.get(op, _attributes)(op, module)
    return {**held, **operands}


def _attributes(op: OpDef, module: nn.Module) -> Arguments:
    """What the attributes of ``module`` say about the parameters of ``op`` of the same name."""
    arguments: Arguments = {}
    for name in (*op.signature.parameters, *_ALSO_READ.get(op, ())):
        canonical = name if name in op.signature.parameters else _SYNONYMS.get(name, name)
        if name in parameters_held(module) or name in buffers_held(module):
            tensor = parameters_held(module).get(name, buffers_held(module).get(name))
            arguments[canonical] = None if tensor is None else HeldName(name)
        elif name != "input" and hasattr(module, name):
            arguments[canonical] = getattr(module, name)
    return arguments


def _pad_attributes(op: OpDef, module: nn.Module) -> Arguments:
    names = {"Reflection": "reflect", "Replication": "replicate", "Circular": "circular"}
    kind = type(module).__name__
    mode = next((m for prefix, m in names.items() if kind.startswith(prefix)), "constant")
    return {"pad": module.padding, "mode": mode, "value": getattr(module, "value", None)}


_ALSO_READ: dict[OpDef, tuple[str, ...]] = {
    vocab.CLAMP: ("min_val", "max_val"),
    vocab.UNFLATTEN: ("unflattened_size",),
    **dict.fromkeys((vocab.EMBEDDING, vocab.EMBEDDING_BAG), ("max_norm",)),
    **dict.fromkeys(vocab.CONVOLUTIONS + vocab.TRANSPOSED, ("padding_mode",)),
    **dict.fromkeys(vocab.ADAPTIVE_POOLS, ("return_indices",)),
}
_MODULE_ATTRIBUTES: dict[OpDef, Callable[[OpDef, nn.Module], Arguments]] = {
    vocab.PAD: _pad_attributes,
    **dict.fromkeys(vocab.RECURRENT, recurrent.attributes),
}
