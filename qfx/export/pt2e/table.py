"""How each operation of quantization is written in quantized_decomposed: one row an operation.

An emitter takes the arguments of the operation, and calls operators. What they can't say is a
:class:`~qfx.export.problems.CannotWrite`. Every other operation is written as what it computes: the
operators of PyTorch that :mod:`qfx.semantics` calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from qfx import vocab
from qfx.export.problems import CannotWrite
from qfx.export.pt2e.operators import operator
from qfx.semantics import affine
from qfx.semantics.affine import code_bounds, middle_code
from qfx.vocab import OpDef


def quantize(
    input: Tensor,
    scale: Tensor | float,
    zero_point: Tensor | int,
    *,
    dtype: torch.dtype = torch.uint8,
    quant_min: int | None = None,
    quant_max: int | None = None,
    axis: int | None = None,
    group_size: int | None = None,
) -> Tensor:
    """Write ``quantize_per_tensor`` or ``quantize_per_channel``."""
    _refuse(input.dtype, dtype)
    codes = *code_bounds(dtype, quant_min, quant_max), dtype
    if group_size is not None:
        raise CannotWrite(
            "activations that are quantized in groups", "Quantize them per tensor or per channel."
        )
    if axis is not None:
        write = operator("quantize_per_channel")
        return _tensor(write(input, scale, zero_point, axis % input.dim(), *codes))
    write = operator("quantize_per_tensor", _overload(scale, zero_point))
    return _tensor(write(input, *_alike(scale, zero_point), *codes))


def dequantize(
    input: Tensor,
    scale: Tensor | float,
    zero_point: Tensor | int,
    *,
    dtype: torch.dtype = torch.float32,
    axis: int | None = None,
    group_size: int | None = None,
) -> Tensor:
    """Write ``dequantize_per_tensor``, ``_per_channel`` or ``_per_channel_group``."""
    _refuse(dtype, input.dtype)
    codes = *code_bounds(input.dtype, None, None), input.dtype
    if group_size is not None:
        _refuse_groups(input, axis, group_size)
        write = operator("dequantize_per_channel_group")
        made = write(input, scale, zero_point, *codes, group_size, torch.float32)
    elif axis is not None:
        write = operator("dequantize_per_channel")
        made = write(input, scale, zero_point, axis % input.dim(), *codes)
    else:
        write = operator("dequantize_per_tensor", _overload(scale, zero_point))
        made = write(input, *_alike(scale, zero_point), *codes)
    return _tensor(made if dtype == torch.float32 else made.to(dtype))


def dynamic_qparams(
    input: Tensor,
    *,
    dtype: torch.dtype = torch.uint8,
    quant_min: int | None = None,
    quant_max: int | None = None,
    symmetric: bool = False,
    power_of_two: bool = False,
) -> tuple[Tensor, Tensor]:
    """Write ``choose_qparams`` or ``choose_qparams_symmetric``; else what is computed.

    ``choose_qparams_symmetric`` always takes the zero point of the whole dtype, and neither rounds
    scales to powers of two.
    """
    _refuse(input.dtype, dtype)
    low, high = code_bounds(dtype, quant_min, quant_max)
    theirs = 128 if dtype == torch.uint8 else 0
    if power_of_two or (symmetric and middle_code(low, high) != theirs):
        bounds = {"quant_min": low, "quant_max": high}
        return affine.dynamic_qparams(
            input, dtype=dtype, symmetric=symmetric, power_of_two=power_of_two, **bounds
        )
    write = operator("choose_qparams_symmetric" if symmetric else "choose_qparams", "tensor")
    scale, zero_point = write(input, low, high, affine.MIN_SCALE, dtype)
    return scale, zero_point


def packed(*_: object, **__: object) -> Any:
    """Refuse packed sequences: how many rows a step has only data tells, and layers ask it."""
    raise CannotWrite(
        "sequences of several lengths, packed, which torch.export can't trace",
        "Give recurrent layers padded tensors, or write ONNX (qfx.export_onnx), which has them.",
    )


def _sequence(op: OpDef) -> Callable[..., Any]:
    """A recurrent layer, unless what it reads is packed."""

    def write(*args: Any, **kwargs: Any) -> Any:
        if op.signature.bind(*args, **kwargs).arguments.get("packed") is not None:
            packed()
        return op(*args, **kwargs)

    return write


Emitters = Mapping[OpDef, Callable[..., Any]]

EMITTERS: Emitters = {
    vocab.QUANTIZE: quantize,
    vocab.DEQUANTIZE: dequantize,
    vocab.DYNAMIC_QPARAMS: dynamic_qparams,
    vocab.PACK_PADDED: packed,
    vocab.PAD_PACKED: packed,
    **{op: _sequence(op) for op in vocab.SEQUENCES},
}


def _refuse(floats: torch.dtype, codes: torch.dtype) -> None:
    """CannotWrite for what float32, in which the operators compute, can't hold."""
    if floats == torch.float64:
        raise CannotWrite(
            "float64, which quantized_decomposed computes in float32",
            "Convert the float model with .float() before it is quantized.",
        )
    if codes == torch.int32:
        raise CannotWrite(
            "codes of 32 bits, which quantized_decomposed computes in float32",
            "Quantize to 16 bits or fewer.",
        )


def _refuse_groups(input: Tensor, axis: int | None, group_size: int) -> None:
    if input.dim() == 2 and axis == 0 and input.shape[1] % group_size == 0 and group_size > 1:
        return
    raise CannotWrite(
        f"groups of {group_size} in a weight of shape {tuple(input.shape)}: groups divide the rows "
        "of a matrix evenly there",
        "Choose a group_size that divides the input features, or None.",
    )


def _overload(*numbers: object) -> str:
    return "tensor" if any(isinstance(n, Tensor) for n in numbers) else "default"


def _alike(scale: Tensor | float, zero_point: Tensor | int) -> tuple[Any, Any]:
    """Both as numbers, or both as tensors."""
    if isinstance(scale, Tensor) and not isinstance(zero_point, Tensor):
        return scale, torch.full_like(scale, zero_point, dtype=torch.int64)
    if isinstance(zero_point, Tensor) and not isinstance(scale, Tensor):
        return torch.full_like(zero_point, scale, dtype=torch.float32), zero_point
    return scale, zero_point


def _tensor(made: object) -> Tensor:
    assert isinstance(made, Tensor)
    return made
