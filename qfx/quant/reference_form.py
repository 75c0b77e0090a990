"""What the nodes of the reference form hold: qparams, bounds of codes, quantized weights.

    q = quantize(x, scale, zero_point, dtype=..., quant_min=..., quant_max=...)
    x' = dequantize(q, scale, zero_point)                      an activation
    scale, zero_point = dynamic_qparams(x)                     its numbers, measured at run time
    w' = dequantize(@codes, @scale, @zero_point, axis=0)       a weight, per channel
    w' = dequantize(unpack(@q4), @scale, @zero_point, axis=0, group_size=32)

Who reads the reference form (lowering, checks, files, exports) asks here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from qfx.errors import VerifyError
from qfx.graph import meta
from qfx.graph.constants import constant_value
from qfx.quant.qparams import QParams
from qfx.semantics.affine import code_bounds
from qfx.vocab import DEQUANTIZE, QUANTIZE, UNPACK, bound, is_op


class Codes(NamedTuple):
    """The integers that a tensor is rounded to: ``quant_min`` to ``quant_max``, inclusive."""

    dtype: torch.dtype
    quant_min: int
    quant_max: int


@dataclass(frozen=True)
class Measured:
    """Qparams of one tensor that are measured when the model runs.

    Attributes:
        scale, zero_point: the nodes that yield them.
        dtype: of the codes.
    """

    scale: fx.Node
    zero_point: fx.Node
    dtype: torch.dtype


@dataclass(frozen=True)
class QuantizedWeight:
    """A constant weight as the reference graph holds it.

    Attributes:
        name: qualified name of the integer buffer.
        integers: the codes, unpacked.
        qparams: per tensor or per channel.
        scale, zero_point: the nodes that read them, where they are per channel.
    """

    name: str
    integers: Tensor
    qparams: QParams
    scale: fx.Node | float
    zero_point: fx.Node | int


def codes_of(quantize: fx.Node) -> Codes:
    """The codes that a QUANTIZE rounds to, or those for which a DYNAMIC_QPARAMS measures."""
    return _told(bound(quantize))


def qparams_of(
    node: fx.Node, owner: fx.GraphModule, named: Mapping[str, Any] | None = None
) -> QParams | Measured:
    """The qparams of the codes that a QUANTIZE of ``owner`` makes, or that a DEQUANTIZE reads.

    Those of a DEQUANTIZE have the bounds of the QUANTIZE that it reads, and of constants and codes
    that were moved since, those of the dtype.

    Args:
        node: the QUANTIZE or DEQUANTIZE.
        owner: of its graph.
        named: its arguments, if they are at hand by name.
    """
    named = bound(node) if named is None else named
    scale, zero_point = named["scale"], named["zero_point"]
    codes = _told(named) if is_op(node, QUANTIZE) else _codes(named["input"], owner)
    if _is_measured(scale) or _is_measured(zero_point):
        return Measured(scale, zero_point, codes.dtype)
    numbers = _number(scale, owner), _number(zero_point, owner)
    bounds = codes.quant_min, codes.quant_max
    return QParams(*numbers, codes.dtype, *bounds, named["axis"], named["group_size"])


def quantized_weight(weight: fx.Node, owner: fx.GraphModule) -> QuantizedWeight | None:
    """The weight that a node of ``owner`` restores from constant codes.

    None where it is kept in float or in half precision, or does not follow from constants.
    """
    if not is_op(weight, DEQUANTIZE):
        return None
    named = bound(weight)
    codes, scale, zero_point = named["input"], named["scale"], named["zero_point"]
    stored = codes.args[0] if is_op(codes, UNPACK) else codes
    if stored.op != "get_attr":
        return None
    integers, qparams = constant_value(codes, owner), qparams_of(weight, owner, named)
    if integers is None or isinstance(qparams, Measured):
        return None
    return QuantizedWeight(str(stored.target), integers, qparams, scale, zero_point)


def _is_measured(number: object) -> bool:
    return isinstance(number, fx.Node) and number.op != "get_attr"


def _number(number: Tensor | float, owner: fx.GraphModule) -> Any:
    return constant_value(number, owner) if isinstance(number, fx.Node) else number


def _told(named: Mapping[str, Any]) -> Codes:
    """The codes that the arguments of a QUANTIZE or DYNAMIC_QPARAMS tell of."""
    dtype: torch.dtype = named["dtype"]
    return Codes(dtype, *code_bounds(dtype, named["quant_min"], named["quant_max"]))


def _codes(integers: fx.Node, owner: fx.GraphModule) -> Codes:
    if is_op(integers, QUANTIZE):
        return codes_of(integers)
    held = constant_value(integers, owner) if integers.op == "get_attr" else None
    info = meta.tensor_info(integers) if held is None else held
    if info is None:
        raise VerifyError(
            f"%{meta.where(integers)} holds codes, and of what dtype is not recorded; record what "
            "it yields where it is made",
            node=integers.name,
        )
    return Codes(info.dtype, *code_bounds(info.dtype, None, None))
