"""What the arguments of shapes, reductions and arithmetic need beyond a change of names.

Implicit arguments become explicit, lists tuples, and the tensor of an operation with a number goes
first.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import fx

from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import GETITEM, MESHGRID, OpDef, is_op
from qfx_passes.canonical.argument_values import computed, rank_of
from qfx_passes.canonical.call_site import Arguments, CallSite
from qfx_passes.canonical.readings import is_tensor

_FLOOR_DIVISIONS = (
    *(operator.floordiv, operator.ifloordiv, torch.floor_divide),
    *("floor_divide", "floor_divide_"),
)


def clamp(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    bounds = [arguments.get("min"), arguments.get("max")]
    if any(isinstance(b, fx.Node) for b in bounds):
        return computed("bound")
    return None


def softmax(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    if arguments.get("dim") is not None:
        return None
    rank = rank_of(arguments["input"])
    if rank is None:
        return Mismatch("softmax without dim of a tensor of unknown rank")
    arguments["dim"] = 0 if rank in (0, 1, 3) else 1  # as torch chooses
    return None


def reduce(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
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


def shape(name: str) -> Callable[[OpDef, Arguments, CallSite], Mismatch | None]:
    def adapt(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
        value = arguments.get(name)
        if isinstance(value, (torch.dtype, str)):
            return Mismatch("{0}={1} is no shape", name, value)
        if isinstance(value, fx.Node):
            return None  # a whole torch.Size, computed
        arguments[name] = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        return None

    return adapt


def spread_shape(name: str) -> Callable[[OpDef, Arguments, CallSite], Mismatch | None]:
    plain = shape(name)

    def adapt(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
        value = arguments.get(name)
        only = value[0] if isinstance(value, tuple) and len(value) == 1 else None
        if isinstance(only, torch.dtype):
            return Mismatch("a view as another dtype")
        if isinstance(only, fx.Node) and meta.value_of(only) is not None:  # x.view(y.shape)
            arguments[name] = only
            return None
        return plain(op, arguments, site)

    return adapt


def transpose(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    if "dim0" in arguments:
        return None
    if rank_of(arguments["input"]) != 2:
        return Mismatch("t() of a tensor that is no matrix")
    arguments.update(dim0=0, dim1=1)
    return None


def as_tuple(name: str) -> Callable[[OpDef, Arguments, CallSite], Mismatch | None]:
    def adapt(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
        if isinstance(arguments.get(name), list):
            arguments[name] = tuple(arguments[name])
        return None

    return adapt


def tensor_split(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    sections = arguments.get("sections")
    if isinstance(sections, fx.Node) and rank_of(sections) is not None:
        return Mismatch("a tensor of sections")
    return as_tuple("sections")(op, arguments, site)


def scatter(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    return None if "src" in arguments else Mismatch("a reduction of what is there")


def sort_rows(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    arguments["dim"] = 0  # torch.msort
    return None


def where(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    missing = not {"condition", "input", "other"} <= arguments.keys()
    return (
        Mismatch("the places where a condition holds, of which there is any number")
        if missing
        else None
    )


def two_tensors(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    both = is_tensor(arguments["input"]) and is_tensor(arguments["other"])
    return None if both else Mismatch("it takes two tensors")


def roll(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    for name in ("shifts", "dims"):
        if isinstance(arguments.get(name), list):
            arguments[name] = tuple(arguments[name])
    if arguments.get("dims") is None:
        arguments.pop("dims", None)
    return None


def repeat_interleave(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    if isinstance(arguments.get("repeats"), fx.Node) and rank_of(arguments["repeats"]) is not None:
        return Mismatch("a tensor of repeats")
    return None


def pad(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    if not isinstance(arguments["pad"], (tuple, list)):
        return Mismatch("pad={0} is computed", arguments["pad"])
    arguments["pad"] = tuple(arguments["pad"])
    if arguments.get("value") == 0:
        arguments.pop("value")
    return None


def arithmetic(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    first, second = arguments["input"], arguments["other"]
    if op.commutative and not is_tensor(first) and is_tensor(second):
        if arguments.get("alpha", 1) != 1:
            return Mismatch("alpha scales the number, not the tensor")
        arguments["input"], arguments["other"] = second, first
    return None


def divide(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    if site.node.target in _FLOOR_DIVISIONS:
        arguments["rounding_mode"] = "floor"
    if arguments.get("rounding_mode") and not is_tensor(arguments["input"]):
        return Mismatch("a number divided by a tensor, rounded")
    return None


def join(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    tensors = elements(arguments["tensors"], site)
    if tensors is None:
        return Mismatch("the list of tensors is computed")
    arguments["tensors"] = tensors
    return None


def elements(value: object, site: CallSite) -> list[object] | None:
    """The tensors of a list; None if the model has as many as its inputs say."""
    if isinstance(value, (tuple, list)):
        return list(value)
    if not isinstance(value, fx.Node):
        return None
    if is_op(value, GETITEM) and isinstance(value.args[1], slice):
        whole = elements(value.args[0], site)
        return None if whole is None else whole[value.args[1]]
    if not is_op(value, MESHGRID):
        return None
    count = len(value.args[0])  # type: ignore[arg-type]
    call = site.rewriter.call
    return [call(GETITEM, value, index, origins=(site.node,)) for index in range(count)]
