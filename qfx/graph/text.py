"""How values, literals and targets are written in the IR: deterministic, short, no addresses.

References inside an argument text are *templates*: ``%name`` stands for the node ``name`` and
``%%`` for a percent sign, so a text can be resolved later against any set of nodes (a ``get_attr``
prints as ``@qualified.name``) without holding a node.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

import torch
from torch import fx, nn

from qfx.graph.meta import TensorInfo, Value
from qfx.private_attributes import modules_held
from qfx.torch_private import OVERLOAD, PACKET
from qfx.vocab import OpDef

REFERENCE = re.compile(r"%(%|(?:[\w.]+:)?[A-Za-z_]\w*)")
"""A reference in a template: group 1 is ``%`` or the name of a node, with its region or without."""

_DTYPES = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.uint8: "u8",
    torch.int8: "i8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.complex64: "c64",
    torch.complex128: "c128",
}
_PLAIN = frozenset({type(None), bool, int, float, complex})
_ADDRESS = re.compile(r"(?: object)? at 0x[0-9a-fA-F]+")
_SHORTER = (
    ("torch.nn.functional.", "F."),
    ("torch._C._nn.", "F."),
    ("torch._VariableFunctionsClass.", "torch."),
    ("TensorBase.", "Tensor."),
    ("_operator.", "operator."),
    ("builtins.", ""),
)


def dtype_text(dtype: torch.dtype) -> str:
    """``f32``, ``u8``, ``bool``...: the dtype as the IR prints it."""
    return _DTYPES.get(dtype) or str(dtype).removeprefix("torch.")


def value_text(value: Value) -> str:
    """``f32[1,8,32,32]``, nests as written in Python, "" for what is no tensor."""
    if isinstance(value, TensorInfo):
        return f"{dtype_text(value.dtype)}[{','.join(map(str, value.shape))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {value_text(v) or '_'}" for k, v in value.items()) + "}"
    if isinstance(value, tuple | list) and value:
        inside = ", ".join(value_text(v) or "_" for v in value)
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return ""


def literal(value: object) -> str:
    """An argument as a template; nodes become ``%name``.

    Anything is accepted: what has no deterministic text of its own is named by its type.
    """
    if isinstance(value, fx.Node):
        return "%" + value.name
    if type(value) in _PLAIN:
        return repr(value)
    for kind, write in _WRITERS:
        if isinstance(value, kind):
            return write(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value) if f.repr]
        return call_text(type(value).__name__, (), {n: getattr(value, n) for n in names})
    if callable(value):
        return _escape(target_name(value))
    text = " ".join(_ADDRESS.sub("", repr(value)).split())
    return _escape(text if type(value).__repr__ is not object.__repr__ else type(value).__name__)


def call_text(name: str, args: Iterable[object], kwargs: Mapping[str, object]) -> str:
    """``name(args, key=value)`` as a template."""
    parts = [literal(a) for a in args]
    parts += [f"{k}={literal(v)}" for k, v in kwargs.items()]
    return f"{name}({', '.join(parts)})"


def _escape(text: str) -> str:
    return text.replace("%", "%%")


def _sequence(values: tuple[object, ...] | list[object]) -> str:
    inside = ", ".join(map(literal, values))
    if isinstance(values, list):
        return f"[{inside}]"
    fields = getattr(values, "_fields", None)
    if fields is not None:
        return call_text(type(values).__name__, (), dict(zip(fields, values, strict=True)))
    return f"({inside},)" if len(values) == 1 else f"({inside})"


def _mapping(values: Mapping[object, object]) -> str:
    return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in values.items()) + "}"


def _slice(value: slice) -> str:
    start, stop, step = ("" if v is None else literal(v) for v in _ends(value))
    return f"{start}:{stop}:{step}" if step else f"{start}:{stop}"


def _ends(value: slice) -> tuple[object, object, object]:
    return value.start, value.stop, value.step


def _tensor(value: torch.Tensor) -> str:
    return f"tensor({dtype_text(value.dtype)}[{','.join(str(d) for d in value.shape)}])"


_WRITERS: tuple[tuple[type | tuple[type, ...], Callable[[Any], str]], ...] = (
    (Enum, lambda v: f"{type(v).__name__}.{v.name}"),
    (str, lambda v: _escape(repr(v))),
    ((tuple, list), _sequence),
    (Mapping, _mapping),
    (slice, _slice),
    (torch.dtype, dtype_text),
    ((torch.memory_format, torch.layout), lambda v: str(v).removeprefix("torch.")),
    (torch.device, str),
    (type(Ellipsis), lambda v: "..."),
    (torch.Tensor, _tensor),
    ((set, frozenset), lambda v: "{" + ", ".join(sorted(map(literal, v))) + "}"),
)


def target_name(target: object) -> str:
    """The short dotted name of a function, type, operator overload or callable object."""
    if isinstance(target, OpDef):
        return target.name
    if isinstance(target, (OVERLOAD, PACKET)):
        return str(target)
    name = getattr(target, "__qualname__", None) or getattr(target, "__name__", None)
    if not isinstance(name, str):
        return type(target).__qualname__
    if "<locals>" in name:
        name = str(getattr(target, "__name__", name))
    module = getattr(target, "__module__", None)
    full = f"{module}.{name}" if module else name
    for long, short in _SHORTER:
        if full.startswith(long):
            return short + full[len(long) :]
    return full


def module_type(root: nn.Module, path: str) -> str:
    """Class name of the submodule at ``path``, "?" when there is none."""
    module: nn.Module | None = root
    for part in path.split("."):
        module = None if module is None else modules_held(module).get(part)
    return "?" if module is None else type(module).__name__
