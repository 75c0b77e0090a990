"""Quantizing with qparams that are measured when the model runs, on plain tensors.

    scale, zero_point = choose_qparams(min(x), max(x))        q = quantize(x, scale, zero_point)

One call does both, and hands out the codes with the two numbers for the kernels that read them. In
compiled code the numbers are tensors, since their values are not known when it is compiled.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.compiler import is_compiling

from qfx.backends.base import Emitter
from qfx.backends.onednn import kernels
from qfx.graph import meta
from qfx.graph.shape_rules import yields
from qfx.library import define
from qfx.quant.qparams import choose_numbers
from qfx.quant.reference_form import Measured, codes_of
from qfx.semantics.layout import dense_view
from qfx.vocab import bound

MeasuredOperand = tuple[Tensor, Any, Any]


def _told(input: object, *codes: object, **options: object) -> meta.Value:
    told = kernels.codes_like(input)
    return None if told is None else (told, None, None)


@yields(_told)
def quantize_dynamic(
    input: Tensor,
    quant_min: int = 0,
    quant_max: int = 255,
    symmetric: bool = False,
    power_of_two: bool = False,
    *,
    overwrite: bool = False,
    row: int = 0,
) -> MeasuredOperand:
    """Measure the range of a tensor, and quantize it to uint8.

    Args:
        input: float32, any shape and memory format.
        quant_min: smallest code.
        quant_max: largest code.
        symmetric: whether the zero point is the middle code.
        power_of_two: whether the scale is a power of two.
        overwrite: whether ``input`` may be overwritten.
        row: how long a row is, if a single one is handed on as it is, for
            :mod:`~qfx.backends.onednn.single_rows`; compiled code rounds it.

    Returns:
        uint8 codes in the memory format of ``input``, scale and zero point: numbers, or in compiled
        code tensors. If not all of ``input`` is finite, the scale is NaN and the codes are
        unspecified.
    """
    if is_compiling():
        compiled: MeasuredOperand = _compiled(input, quant_min, quant_max, symmetric, power_of_two)
        return compiled
    size = input.numel()
    if size == 0:
        return input.to(torch.uint8), 1.0, quant_min
    in_order = size == row or input.is_contiguous()
    least, most = torch.aminmax(input if in_order else dense_view(input))
    low, high = least.item(), most.item()
    scale, zero_point = choose_numbers(
        low, high, quant_min, quant_max, symmetric=symmetric, power_of_two=power_of_two
    )
    # A scale that is NaN makes NaN of codes.
    if size == row and scale == scale and input.dtype is torch.float32:
        return (input.detach() if input.requires_grad else input), scale, zero_point
    # Codes are monotonic in values, so that those of the ends say whether any must be clamped:
    # seldom, and it is a third of the time.
    inside = (
        quant_min - 0.49 < low / scale + zero_point <= high / scale + zero_point < quant_max + 0.49
    )
    limit = None if inside else quant_max
    codes = kernels.quantize(input, scale, zero_point, limit, overwrite=overwrite)
    return codes, scale, zero_point


def _measured(input: Tensor, *codes: Any) -> tuple[Tensor, Tensor, Tensor]:
    quantized, scale, zero_point = quantize_dynamic(input, *codes)
    return quantized, torch.tensor(scale), torch.tensor(zero_point)


def _fake(input: Tensor, *codes: object) -> tuple[Tensor, Tensor, Tensor]:
    numbers = input.new_empty(()), input.new_empty((), dtype=torch.int64)
    return torch.empty_like(input, dtype=torch.uint8), *numbers


_compiled = define(
    "quantize_dynamic(Tensor input, int quant_min, int quant_max, bool symmetric,"
    " bool power_of_two)",
    _measured,
    _fake,
    "(Tensor, Tensor, Tensor)",
)


def measure(em: Emitter, value: fx.Node, quantize: fx.Node) -> tuple[fx.Node, Measured]:
    """Emits the call, given the QUANTIZE of the reference form, and picks its results apart."""
    info, (_, low, high) = meta.tensor_info(value), codes_of(quantize)
    measured = bound(bound(quantize)["scale"].args[0])
    assert info is not None
    codes = meta.TensorInfo(info.shape, torch.uint8)
    quantized = em.rw.call(
        quantize_dynamic,
        value,
        low,
        high,
        *(measured["symmetric"], measured["power_of_two"]),
        origins=(value,),
        value=(codes, None, None),
    )
    parts = [
        em.rw.call(operator.getitem, quantized, i, origins=(value,), value=part)
        for i, part in enumerate((codes, None, None))
    ]
    return parts[0], Measured(parts[1], parts[2], torch.uint8)
