"""Functions beside the operations of qfx, as models compute masks and positions with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.nn.utils.rnn import PackedSequence

from qfx import vocab
from qfx.export.onnx import packed
from qfx.export.onnx.activations import common_dtype
from qfx.export.onnx.packed_shapes import PackedParts
from qfx.export.onnx.values import Number, Operand
from qfx.export.problems import CannotWrite
from qfx.graph.containers import makes_container
from qfx.graph.interpret import result_of
from qfx.vocab import is_op

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer


def call(w: Writer, node: fx.Node, args: tuple[object, ...], kwargs: dict[str, Any]) -> Any:
    """Write a call of a function or method."""
    if node.target is PackedSequence:
        return PackedParts(*args, **kwargs)
    if node.op == "call_function" and _makes_container(node):
        is_size = getattr(node.target, "kind", None) is torch.Size  # which takes integers only
        return tuple(args[0]) if is_size else result_of(node, args, kwargs)  # type: ignore[arg-type]
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    emitter = FUNCTIONS.get(str(name).strip("_"))
    if emitter is None:
        raise CannotWrite(
            f"{name}, which can't be written to ONNX", "Compute it outside of the model."
        )
    try:
        return emitter(w, *args, **kwargs)
    except TypeError as error:
        raise CannotWrite(f"{name} with these arguments ({error})", "Write it plainly.") from None


def _makes_container(node: fx.Node) -> bool:
    target = node.target
    if makes_container(node):
        return True
    return isinstance(target, type) and (
        issubclass(target, (Mapping, tuple, list)) or dataclasses.is_dataclass(target)
    )


# -- comparisons and logic -------------------------------------------------------------------------
def _compared(kind: str) -> Callable[..., ir.Value]:
    def write(w: Writer, input: Operand, other: Operand) -> ir.Value:
        dtype = common_dtype(w, input, other)
        if kind in ("Equal", "Unequal") or dtype != torch.bool:
            made = w.op(_PLAIN.get(kind, kind), w.cast(input, dtype), w.cast(other, dtype))
            return w.op("Not", made) if kind == "Unequal" else made
        raise CannotWrite("an order of booleans", "Compare numbers.")

    return write


_PLAIN = {"Unequal": "Equal"}


def _logic(kind: str) -> Callable[..., ir.Value]:
    def write(w: Writer, input: Operand, other: Operand) -> ir.Value:
        if common_dtype(w, input, other) != torch.bool:
            raise CannotWrite("logic on the bits of integers", "Use booleans.")
        return w.op(kind, w.cast(input, torch.bool), w.cast(other, torch.bool))

    return write


def _not(w: Writer, input: Operand) -> ir.Value:
    if w.info(input).dtype != torch.bool:
        raise CannotWrite("logic on the bits of integers", "Use booleans.")
    return w.op("Not", input)


# -- asked of dtypes -------------------------------------------------------------------------------
def _asked_of_dtype(name: str) -> Callable[..., bool]:
    return lambda w, input: bool(getattr(w.info(input).dtype, name))


# -- made of nothing -------------------------------------------------------------------------------
def arange(w: Writer, *ends: Any, dtype: torch.dtype | None = None, **_: object) -> Operand:
    start, end, step = (0, *ends, 1) if len(ends) == 1 else (*ends, 1)[:3]
    if not any(isinstance(n, Number) for n in (start, end, step)):
        return torch.arange(start, end, step, dtype=dtype)
    made = w.op("Range", *(w.cast(n, torch.int64) for n in (start, end, step)))
    if dtype is None or dtype == torch.int64:
        return made
    return w.op("Cast", made, to=int(w.dtype(dtype)))


def _filled(number: float) -> Callable[..., ir.Value]:
    def write(w: Writer, *size: object, dtype: torch.dtype | None = None, **_: object) -> ir.Value:
        return full(w, _sizes(size), number, dtype=dtype or torch.get_default_dtype())

    return write


def _new_filled(number: float) -> Callable[..., ir.Value]:
    def write(
        w: Writer, like: Operand, *size: object, dtype: torch.dtype | None = None, **_: object
    ) -> ir.Value:
        return full(w, _sizes(size), number, dtype=dtype or w.info(like).dtype)

    return write


def _filled_like(number: float) -> Callable[..., ir.Value]:
    def write(
        w: Writer, like: Operand, *, dtype: torch.dtype | None = None, **_: object
    ) -> ir.Value:
        sizes = tuple(w.size(like, d) for d in range(w.info(like).rank))
        return full(w, sizes, number, dtype=dtype or w.info(like).dtype)

    return write


def empty_like(w: Writer, like: Operand, **options: Any) -> ir.Value:
    """Zeros, where something is put: what else would read them gets whatever was in memory."""
    assert w.node is not None
    if not all(is_op(user, vocab.SCATTER) for user in w.node.users):
        raise CannotWrite("memory that nothing was written to", "Use torch.zeros_like.")
    return _filled_like(0)(w, like, dtype=options.get("dtype"))


def _sizes(size: tuple[object, ...]) -> Any:
    return size[0] if len(size) == 1 and isinstance(size[0], (tuple, list)) else size


def full(
    w: Writer, size: Any, fill_value: Any, *, dtype: torch.dtype | None = None, **_: object
) -> ir.Value:
    kind = dtype or torch.tensor(fill_value).dtype
    return w.op("Expand", w.cast(fill_value, kind), w.vector(tuple(size)))


# -- parts, in place -------------------------------------------------------------------------------
def _on_part(kind: str) -> Callable[..., ir.Value]:
    """``y[i] += x``: what is put back where it was taken from is computed like any other."""

    def write(w: Writer, input: Operand, other: Operand) -> ir.Value:
        assert w.node is not None
        if not _is_put_back(w.node):
            raise CannotWrite("writing to a tensor in place", "Write x = x + y.")
        dtype = w.info(input).dtype
        if dtype != common_dtype(w, input, other):
            raise CannotWrite("writing to a tensor of a narrower dtype in place", "Cast before.")
        return w.op(kind, input, w.cast(other, dtype))

    return write


def _is_put_back(node: fx.Node) -> bool:
    """Whether nothing reads what it wrote to but what puts it back: part, after, set."""
    part = node.args[0]
    if not isinstance(part, fx.Node) or not is_op(part, vocab.GETITEM) or len(part.users) != 1:
        return False
    whole, index = part.args
    after = next((u for u in node.users if is_op(u, vocab.AFTER)), None)
    if after is None or after.args != (whole, node) or len(after.users) != 1:
        return False
    (put,) = after.users
    own = is_op(put, vocab.SETITEM) and put.args == (after, index, node)
    return own and set(node.users) == {after, put}


# -- picks and casts -------------------------------------------------------------------------------
def to(w: Writer, input: Operand, *wanted: Any, dtype: object = None, **_: object) -> Operand:
    """Another dtype; devices are the engine's business."""
    for each in (*wanted, dtype):
        if isinstance(each, torch.dtype):
            return w.cast(input, each)
        if isinstance(each, Tensor) or w.is_value(each):
            return w.cast(input, w.info(each).dtype)
    return input


def as_tensor(w: Writer, input: Any, *, dtype: torch.dtype | None = None, **_: object) -> Operand:
    """A tensor as it is, or made of numbers; devices are the engine's business."""
    if not isinstance(input, (list, tuple)):
        return input if dtype is None else w.cast(input, dtype)
    if not input or not all(isinstance(item, (Number, int, float)) for item in input):
        raise CannotWrite("a tensor of several tensors", "Use torch.stack.")
    made = w.vector(input)
    w.tell(made, w.results)
    return made


def numel(w: Writer, input: Operand) -> Number | int:
    """How many elements there are."""
    info = w.info(input)
    if info.fixed:
        return math.prod(info.example)
    return Number(w.op("Reshape", w.op("Size", input), w.vector([1])), int)


def _cast_to(dtype: torch.dtype) -> Callable[..., Operand]:
    return lambda w, input: w.cast(input, dtype)


def argmax(w: Writer, input: Operand, dim: int | None = None, keepdim: bool = False) -> ir.Value:
    if dim is None:
        raise CannotWrite("the place of the largest of all elements", "Name a dim.")
    return w.op("ArgMax", input, axis=dim, keepdims=int(keepdim))


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "eq": _compared("Equal"),
    "ne": _compared("Unequal"),
    "lt": _compared("Less"),
    "le": _compared("LessOrEqual"),
    "gt": _compared("Greater"),
    "ge": _compared("GreaterOrEqual"),
    "and": _logic("And"),
    "logical_and": _logic("And"),
    "or": _logic("Or"),
    "logical_or": _logic("Or"),
    "xor": _logic("Xor"),
    "invert": _not,
    "logical_not": _not,
    "is_floating_point": _asked_of_dtype("is_floating_point"),
    "is_complex": _asked_of_dtype("is_complex"),
    "is_signed": _asked_of_dtype("is_signed"),
    "arange": arange,
    "ones": _filled(1),
    "zeros": _filled(0),
    "new_ones": _new_filled(1),
    "new_zeros": _new_filled(0),
    "ones_like": _filled_like(1),
    "zeros_like": _filled_like(0),
    "full": full,
    "iadd": _on_part("Add"),
    "isub": _on_part("Sub"),
    "imul": _on_part("Mul"),
    "itruediv": _on_part("Div"),
    "empty_like": empty_like,
    "getattr": packed.attribute,
    "as_tensor": as_tensor,
    "cpu": to,
    "numel": numel,
    "to": to,
    "type_as": to,
    "float": _cast_to(torch.float32),
    "long": _cast_to(torch.int64),
    "int": _cast_to(torch.int32),
    "bool": _cast_to(torch.bool),
    "argmax": argmax,
}
"""By name: functions, operators and methods alike."""
