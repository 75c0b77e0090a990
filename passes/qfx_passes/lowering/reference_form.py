"""What lowering reads off the reference form: weights, biases, and the qparams of codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from qfx.backends.base import QuantizedWeight
from qfx.graph import meta
from qfx.quant.qparams import QParams
from qfx.rewrite.rewriter import Rewriter
from qfx.semantics.packing import unpack
from qfx.vocab import UNPACK, WIDEN, bound, is_op
from qfx_passes.operands import weight_operands


def weights_of(node: fx.Node, rw: Rewriter) -> Iterator[QuantizedWeight]:
    kept = (_weight(operand, rw) for operand in weight_operands(node))
    yield from (weight for weight in kept if weight is not None)


def _weight(restored: object, rw: Rewriter) -> QuantizedWeight | None:
    assert isinstance(restored, fx.Node)
    if is_op(restored, WIDEN):
        return None
    codes = integers = restored.args[0]
    assert isinstance(codes, fx.Node)
    if is_op(codes, UNPACK):
        integers = codes.args[0]
    assert isinstance(integers, fx.Node)
    scale: Any
    zero_point: Any
    scale, zero_point = restored.args[1:3]
    tensor = rw.tensor(integers)
    if integers is not codes:
        named = bound(codes)
        tensor = unpack(tensor, dtype=named["dtype"], columns=named["columns"])
    bounds = torch.iinfo(tensor.dtype)
    qparams = QParams(
        _value(scale, rw),
        _value(zero_point, rw),
        tensor.dtype,
        bounds.min,
        bounds.max,
        bound(restored)["axis"],
        bound(restored)["group_size"],
    )
    return QuantizedWeight(str(integers.target), tensor, qparams, scale, zero_point)


def _value(number: object, rw: Rewriter) -> Any:
    return rw.tensor(number) if isinstance(number, fx.Node) else number


def bias_of(bias: object, rw: Rewriter) -> Tensor | None:
    return rw.tensor(bias) if isinstance(bias, fx.Node) else None


def qparams_of(quantize: fx.Node) -> QParams:
    """The per-tensor qparams that a QUANTIZE node holds."""
    arguments = bound(quantize)
    bounds = torch.iinfo(arguments["dtype"])
    low, high = arguments["quant_min"], arguments["quant_max"]
    return QParams(
        arguments["scale"],
        arguments["zero_point"],
        arguments["dtype"],
        bounds.min if low is None else low,
        bounds.max if high is None else high,
    )


def retyped(node: fx.Node, integers: fx.Node) -> meta.Value:
    """What ``node`` yields when it runs on ``integers``, a tensor or a tuple of them."""
    value = meta.value_of(integers)
    first = value[0] if isinstance(value, (tuple, list)) else value
    assert isinstance(first, meta.TensorInfo)
    return _with_dtype(meta.value_of(node), first.dtype)


def _with_dtype(value: meta.Value, dtype: torch.dtype) -> meta.Value:
    if isinstance(value, meta.TensorInfo):
        return meta.TensorInfo(value.shape, dtype)
    if isinstance(value, tuple):
        return tuple(_with_dtype(item, dtype) for item in value)
    if isinstance(value, list):
        return [_with_dtype(item, dtype) for item in value]
    return value
