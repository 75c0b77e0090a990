"""Attention, written out in products and a softmax."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from qfx.export.onnx import rounding
from qfx.export.onnx.forms import OnnxForm
from qfx.export.onnx.layers import transposed
from qfx.export.onnx.values import Info, Operand
from qfx.export.problems import CannotWrite

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer


def attention(
    w: Writer,
    query: Operand,
    key: Operand,
    value: Operand,
    attn_mask: Operand | None,
    *,
    is_causal: bool,
    scale: float | None,
    dropout: float,
) -> ir.Value:
    """``softmax(query key^T / sqrt(d) + mask) value``."""
    if is_causal:
        attn_mask = _causal(w, query, key)
    dtype = w.info(query).dtype
    if w.form is OnnxForm.BFLOAT16 and dtype == torch.float32:
        query, key, value = (_cast(w, each, torch.bfloat16) for each in (query, key, value))
        made = attention_weights(w, query, key, attn_mask, scale=scale)
        return w.op("Cast", w.op("MatMul", made, value), to=int(w.dtype(dtype)))
    weights: Operand = attention_weights(w, query, key, attn_mask, scale=scale)
    if w.form.multiplies_weights and _weigh(w, query, key, weights):
        value = rounding.factor(w, 2, value)
        weights = rounding.factor(w, 3, weights, weighs=True)
    return w.op("MatMul", weights, value)


def _cast(w: Writer, value: Operand, dtype: torch.dtype) -> ir.Value:
    info = w.info(value)
    made = w.op("Cast", value, to=int(w.dtype(dtype)))
    w.tell(made, replace(info, dtype=dtype))
    return made


def _weigh(w: Writer, query: Operand, key: Operand, weights: Operand) -> bool:
    """Say what weights are; whether that is known."""
    assert w.is_value(weights)
    of_query, of_key = w.info(query), w.info(key)
    if of_query.shape[:-2] != of_key.shape[:-2]:
        return False
    shape = (*of_query.shape[:-1], of_key.shape[-2])
    example = (*of_query.example[:-1], of_key.example[-2])
    w.tell(weights, Info(shape, example, of_query.dtype))
    return True


def attention_weights(
    w: Writer, query: Operand, key: Operand, attn_mask: Operand | None, *, scale: float | None
) -> ir.Value:
    width = w.info(query).shape[-1]
    if not isinstance(width, int):
        raise CannotWrite("attention of a width that is not fixed", "Fix it.", by_size=True)
    factor = width**-0.5 if scale is None else scale
    by = w.scalar(factor, w.info(query).dtype)
    if w.form.multiplies_scores:
        query, key = rounding.factor(w, 0, query), rounding.factor(w, 1, key)
    if w.form.multiplies_scores or w.info(query).dtype == torch.bfloat16:
        scores = w.op("Mul", w.op("MatMul", query, transposed(w, key)), by)
    else:
        scores = w.op("MatMul", w.op("Mul", query, by), transposed(w, key))
    if attn_mask is not None:
        mask = _additive(w, attn_mask, w.info(query).dtype)
        # In this order: OpenVINO (2026.4.1) errs where a mask comes second to an integer product.
        scores = w.op("Add", mask, scores)
    return w.op("Softmax", scores, axis=-1)


def _additive(w: Writer, mask: Operand, dtype: torch.dtype) -> Operand:
    """What is added of a mask: of a boolean one 0 where it is True, else minus infinity."""
    if w.info(mask).dtype == torch.bool:
        return w.op("Where", mask, w.scalar(0.0, dtype), w.scalar(-math.inf, dtype))
    return mask if w.info(mask).dtype == dtype else _cast(w, mask, dtype)


def additive_mask(w: Writer, mask: Operand, *, dtype: torch.dtype) -> ir.Value:
    return w.op("Where", mask, w.scalar(-math.inf, dtype), w.scalar(0.0, dtype))


def _causal(w: Writer, query: Operand, key: Operand) -> Operand:
    """True on and below the diagonal."""
    sizes = (w.size(query, -2), w.size(key, -2))
    if all(isinstance(size, int) for size in sizes):
        return torch.ones(sizes, dtype=torch.bool).tril()  # type: ignore[arg-type]
    shape = w.vector(sizes)
    ones = w.op("Expand", w.scalar(1.0, torch.float32), shape)
    made = w.op("Cast", w.op("Trilu", ones, upper=0), to=int(w.dtype(torch.bool)))
    w.tell(made, Info(("?", "?"), (1, 1), torch.bool))
    return made
