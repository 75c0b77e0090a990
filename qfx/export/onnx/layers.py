"""Convolutions, linear layers and products."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qfx import vocab
from qfx.export.onnx import rounding
from qfx.export.onnx.forms import OnnxForm
from qfx.export.onnx.integers import integers
from qfx.export.onnx.layer_parts import parts_read, rows
from qfx.export.onnx.quantization import dequantized
from qfx.export.onnx.values import Dequantized, Dim, Info, Operand
from qfx.export.problems import CannotWrite

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer


# -- convolutions and linear layers ----------------------------------------------------------------
def conv(
    w: Writer,
    input: Operand,
    weight: Operand,
    bias: Operand | None,
    *,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
) -> ir.Value:
    dims = w.info(weight).rank - 2
    input = _batched(w, input, dims)
    product = integers(w, input, weight, bias, dims)
    kind, operands = ("Conv", (input, weight, bias)) if product is None else product.conv()
    made = w.op(
        kind,
        *operands,
        strides=_each(stride, dims),
        pads=_pads(w, padding, weight, dilation, dims),
        dilations=_each(dilation, dims),
        group=groups,
    )
    return made if product is None else product.scaled(made)


def conv_transpose(
    w: Writer,
    input: Operand,
    weight: Operand,
    bias: Operand | None,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> ir.Value:
    dims = w.info(weight).rank - 2
    return w.op(
        "ConvTranspose",
        _batched(w, input, dims),
        weight,
        bias,
        strides=_each(stride, dims),
        pads=_each(padding, dims) * 2,
        output_padding=_each(output_padding, dims),
        dilations=_each(dilation, dims),
        group=groups,
    )


def _each(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """One number for each spatial dim."""
    given = (value,) if isinstance(value, int) else tuple(value)
    return given * dims if len(given) == 1 else given


def _batched(w: Writer, input: Operand, dims: int) -> Operand:
    if w.info(input).rank != dims + 2:
        raise CannotWrite("a convolution without a batch dimension", "Give the model batches.")
    return input


def _pads(
    w: Writer,
    padding: Sequence[int] | str,
    weight: Operand,
    dilation: Sequence[int],
    dims: int,
) -> tuple[int, ...]:
    if not isinstance(padding, str):
        return _each(padding, dims) * 2
    if padding == "valid":
        return (0,) * (2 * dims)
    kernel = w.info(weight).example[2:]
    total = [d * (k - 1) for d, k in zip(_each(dilation, dims), kernel, strict=True)]
    return (*(t // 2 for t in total), *(t - t // 2 for t in total))


def linear(w: Writer, input: Operand, weight: Operand, bias: Operand | None) -> ir.Value:
    """MatMul and Add: for Gemm to be run in integers, its bias would have to be rounded, too."""
    product = integers(w, input, weight, bias, 0)
    if product is not None:
        kind, operands = product.matmul()
        return product.scaled(w.op(kind, *operands))
    rounded = rounded_bias(w, input, weight, bias)
    if rounded is not None and isinstance(input, Dequantized):
        return _gemm(w, input, weight, rounded)
    sizes = parts_read(w) if w.form is OnnxForm.BFLOAT16 else []
    weights = rows(weight, sizes)
    if not weights or not isinstance(bias, Tensor | None):
        return _product(w, input, weight, bias)
    biases = [None] * len(sizes) if bias is None else torch.split(bias, sizes)
    parts = [_product(w, input, *each) for each in zip(weights, biases, strict=True)]
    made = w.op("Concat", *parts, axis=-1)
    w.parts[id(made)] = tuple(parts)
    return made


def _product(w: Writer, input: Operand, weight: Operand, bias: Operand | None) -> ir.Value:
    made = w.op("MatMul", input, transposed(w, weight))
    return made if bias is None else w.op("Add", made, bias)


def rounded_bias(
    w: Writer, input: Operand, weight: Operand, bias: Operand | None
) -> ir.Value | None:
    """The bias of a layer on matrices, in units of the products: as engines add it.

    ONNX Runtime makes one Gemm of MatMul and Add where it can, and takes no other in integers: what
    is not rounded it computes in float, of weights that it dequantizes in each run.
    """
    if not w.form.rounds_layers:
        return None
    if not isinstance(input, Dequantized) or not isinstance(weight, Dequantized):
        return None
    if not isinstance(bias, Tensor) or not weight.stored or 0 in w.info(input).example:
        return None
    if not isinstance(input.scale, float) or weight.group_size is not None:
        return None
    scale = torch.as_tensor(weight.scale, dtype=torch.float64) * input.scale
    codes = (bias.double() / scale).round()
    if bool((codes.abs() >= 2**31).any()) or bool(torch.as_tensor(weight.zero_point).any()):
        return None
    zero = torch.zeros(scale.shape, dtype=torch.int32)
    axis = 0 if scale.dim() else None
    return w.op("DequantizeLinear", codes.to(torch.int32), scale.float(), zero, axis=axis)


def _gemm(w: Writer, input: Dequantized, weight: Operand, bias: ir.Value) -> ir.Value:
    """A layer on matrices; others are made matrices of their codes."""
    info = w.info(input)
    if info.rank == 2:
        return w.op("Gemm", input, weight, bias, transB=1)
    rows: Dim = prod(info.example[:-1]) if info.fixed else "|".join(map(str, info.shape[:-1]))
    width, outputs = info.example[-1], w.info(weight).example[0]
    flat = Info((rows, width), (prod(info.example[:-1]), width), info.dtype)
    codes = w.op("Reshape", input.codes, w.vector([-1, width]))
    w.tell(codes, dataclasses.replace(flat, dtype=w.info(input.codes).dtype))
    matrix = dataclasses.replace(input, codes=codes, info=flat, written={})
    made = w.op("Gemm", matrix, weight, bias, transB=1)
    w.tell(
        made, dataclasses.replace(flat, shape=(rows, outputs), example=(flat.example[0], outputs))
    )
    shape, example = (*info.shape[:-1], outputs), (*info.example[:-1], outputs)
    several = sum(isinstance(d, str) for d in shape) > 1
    sizes = [*(w.size(input, d) for d in range(info.rank - 1)), outputs] if several else ()
    return w.reshape(made, Info(shape, example, info.dtype), sizes)


def transposed(w: Writer, weight: Operand) -> Operand:
    """A matrix with rows and columns exchanged; constants are stored that way."""
    if isinstance(weight, Dequantized) and weight.stored and weight.info.rank == 2:
        return dequantized(w, weight, swapped=True)
    if isinstance(weight, Tensor):
        return weight.mT.contiguous()
    rank = w.info(weight).rank
    return w.op("Transpose", weight, perm=(*range(rank - 2), rank - 1, rank - 2))


def bilinear(
    w: Writer, input: Operand, other: Operand, weight: Operand, bias: Operand | None
) -> ir.Value:
    made = w.op("Einsum", input, weight, other, equation="...i,oij,...j->...o")
    return made if bias is None else w.op("Add", made, bias)


def matmul(w: Writer, input: Operand, other: Operand) -> ir.Value:
    assert w.node is not None
    weighs = vocab.is_op(w.node.all_input_nodes[0], vocab.SOFTMAX, vocab.ATTENTION_WEIGHTS)
    if w.form.multiplies_weights if weighs else w.form.multiplies_scores:
        input = rounding.factor(w, 0, input, weighs=weighs)
        other = rounding.factor(w, 1, other)
    return w.op("MatMul", input, other)
