"""What a node does, told from its record alone; decides how it is drawn.

The spellings of :mod:`qfx.vocab` are looked up as printed. What is not in the vocabulary (kernels,
modules of the user or of a pass) is told by its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from functools import cache

from qfx.graph.meta import TensorInfo, Value
from qfx.graph.text import target_name
from qfx.history.record import NodeRecord
from qfx.vocab import Kind, ops

_BY_NAME = (
    (re.compile(r"Observer|FakeQuant|fake_quant", re.ASCII), "observer"),
    (re.compile(r"(^|[._])(de)?quantize|Quantize"), "quant"),
    (
        re.compile(r"conv|linear|matmul|attention|(^|[._])(add)?(b?mm)([._]|$)", re.IGNORECASE),
        "matmul",
    ),
)
_SMALL_INTEGERS = ("uint8", "int8", "int16", "quint8", "qint8")


class Look(Enum):
    """How a node is drawn: name in the legend, fill colour, colour of its text."""

    BOUNDARY = ("input, output", "#3d4451", "#ffffff")
    INTEGER_MATMUL = ("matmul, integer", "#63c08d", "#10241a")
    FLOAT_MATMUL = ("matmul, float", "#f7a68b", "#3a150a")
    INTEGER = ("other, integer", "#dcf3e5", "#1d2b24")
    FLOAT = ("other, float", "#eef0f3", "#23272e")
    QUANT = ("quantize, dequantize", "#ffdf80", "#3a2c00")
    OBSERVER = ("observer, fake-quant", "#cdb7f5", "#241340")

    def __init__(self, title: str, fill: str, text: str) -> None:
        self.title = title
        self.fill = fill
        self.text = text


def look(record: NodeRecord, values: Mapping[str, Value]) -> Look:
    """How to draw a node, given the values of the nodes it reads."""
    if record.op in ("placeholder", "output"):
        return Look.BOUNDARY
    family = _family(record.op, record.target.split("+", 1)[0])
    if family == "observer":
        return Look.OBSERVER
    if family == "quant":
        return Look.QUANT
    integer = is_integer(record.value) or any(is_integer(values.get(n)) for n in record.inputs)
    if family == "matmul":
        return Look.INTEGER_MATMUL if integer else Look.FLOAT_MATMUL
    return Look.INTEGER if integer else Look.FLOAT


def is_integer(value: Value) -> bool:
    """Whether it holds a tensor of quantized integers (8 or 16 bits wide)."""
    if isinstance(value, TensorInfo):
        return str(value.dtype).removeprefix("torch.") in _SMALL_INTEGERS
    return isinstance(value, tuple | list) and any(map(is_integer, value))


def _family(op: str, target: str) -> str:
    known = _spellings().get((op, target))
    if known is not None:
        return known
    return next((family for pattern, family in _BY_NAME if pattern.search(target)), "other")


@cache
def _spellings() -> dict[tuple[str, str], str]:
    """Families of every spelling in the vocabulary, by fx kind and printed target."""
    names = {Kind.MATMUL: "matmul", Kind.QUANT: "quant"}
    found: dict[tuple[str, str], str] = {}
    for op in ops():
        family = names.get(op.kind, "other")
        found["call_function", op.name] = family
        found.update((("call_function", target_name(f)), family) for f in op.functions)
        found.update((("call_module", m.__name__), family) for m in op.modules)
        found.update((("call_method", name), family) for name in op.methods)
    return found
