"""Casts: ``to``, ``type_as``, ``float`` and the like, as one operation, or as nothing.

    x.to(dtype), x.type(dtype), x.float()   ->  cast(x, dtype=dtype)     where x has another dtype
                                            ->  x                        where it has that one
    x.to(y), x.to(y.device), x.type_as(y)   ->  likewise: a model lies on one device

An argument of the model may come from another device, so moves of those stay as they were written,
and so do moves to a device by name.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import fx

from qfx import vocab
from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import is_op
from qfx_passes.canonical.call_site import CallSite
from qfx_passes.canonical.functional_calls import Spelling

_NAMED = {
    **{"float": torch.float32, "double": torch.float64, "half": torch.float16},
    **{"bfloat16": torch.bfloat16, "int": torch.int32, "long": torch.int64, "bool": torch.bool},
}
_CASTS = ("to", "type", "type_as")
_HINTS = {"non_blocking": (True, False), "copy": (False,), "memory_format": (None,)}


class Cast(NamedTuple):
    """What a cast makes of its operand.

    Attributes:
        input: the operand.
        dtype: as written: a dtype, or the node that yields it.
        changes: whether the operand has another dtype.
    """

    input: fx.Node
    dtype: Any
    changes: bool


def canonical_cast(site: CallSite, call: Spelling) -> fx.Node | Mismatch | None:
    """The cast that the call is, or what one that changes nothing hands through."""
    cast = read_cast(call)
    if cast is None and call.kind == "call_method" and call.target in _CASTS:
        return Mismatch("it may move to another device, or copies")
    if cast is None:
        return None
    if not cast.changes:
        return site.through(cast.input)
    return site.becomes(vocab.CAST, {"input": cast.input, "dtype": cast.dtype})


def read_cast(call: Spelling) -> Cast | None:
    """The cast that ``call`` is; None if it is none, or one that may move to another device."""
    if call.kind != "call_method" or not call.args or not isinstance(call.args[0], fx.Node):
        return None
    operand, *given = call.args
    info = meta.tensor_info(operand)
    if info is None:
        return None
    if call.target in _NAMED:
        wanted: list[Any] = [] if given or call.kwargs else [_NAMED[str(call.target)]]
    elif call.target in _CASTS:
        wanted = [*given, *_wanted(call.kwargs)]
    else:
        return None
    moves = [_moves(value) for value in wanted]
    if not wanted or any(m is None for m in moves) or (any(moves) and operand.op == "placeholder"):
        return None
    dtypes = [(value, found) for value in wanted if (found := _dtype_of(value)) is not None]
    if len(dtypes) > 1:
        return None
    written, dtype = dtypes[0] if dtypes else (info.dtype, info.dtype)
    return Cast(operand, _as_dtype(written, dtype), dtype is not info.dtype)


def _wanted(kwargs: dict[str, Any]) -> list[Any]:
    """The dtypes and devices among keywords; an object that is neither for what is unknown."""
    return [
        value if name in ("dtype", "device", "other") else None
        for name, value in kwargs.items()
        if value not in _HINTS.get(name, ()) and not (name in ("dtype", "device") and value is None)
    ]


def _moves(value: object) -> bool | None:
    """Whether an argument of a cast names a device; None for what is neither device nor dtype."""
    if isinstance(value, torch.dtype) or is_dtype(value):
        return False
    is_device = isinstance(value, fx.Node) and is_op(value, vocab.DEVICE)
    is_tensor = isinstance(value, fx.Node) and meta.tensor_info(value) is not None
    return True if is_device or is_tensor else None


def is_dtype(value: object) -> bool:
    """Whether ``value`` is a node that asks for the dtype of a tensor."""
    return isinstance(value, fx.Node) and is_op(value, vocab.DTYPE)


def _dtype_of(value: Any) -> torch.dtype | None:
    """The dtype that an argument of a cast stands for in the capture."""
    if isinstance(value, torch.dtype):
        return value
    asked = value.args[0] if is_dtype(value) else value
    info = meta.tensor_info(asked) if isinstance(asked, fx.Node) else None
    return None if info is None else info.dtype


def _as_dtype(written: object, dtype: torch.dtype) -> Any:
    return written if is_dtype(written) else dtype
