"""The operators ``torch.ops.quantized_decomposed``, by which backends know quantization.

Backends (ExecuTorch's, Inductor's) match these operators by name. PyTorch registers them in a
module of ``torch.ao`` that ``import torch`` does not load, so it is loaded when a model is
exported, not before. Where PyTorch has no such module they are defined here, with the same schemas;
two definitions of one operator would exclude each other, so never both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from qfx import torch_private
from qfx.semantics import affine

_CODES = "int quant_min, int quant_max, ScalarType dtype"
_NUMBERS = "Tensor input, float scale, int zero_point"
_TENSORS = "Tensor input, Tensor scale, Tensor zero_point"
_OUT = "*, ScalarType? out_dtype=None"


def operator(name: str, overload: str = "default") -> Callable[..., Any]:
    """An operator of quantized_decomposed, which is registered by now."""
    _register()
    return torch_private.find(f"torch.ops.quantized_decomposed.{name}.{overload}")


@cache
def _register() -> torch.library.Library | None:
    """Have PyTorch register the operators; where it lacks them, the library that defines them."""
    if torch_private.load_decomposed():
        return None
    library = torch.library.Library("quantized_decomposed", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema, kernel in _OWN.items():
        library.define(schema)  # type: ignore[no-untyped-call]
        name = schema[: schema.index("(")]
        library.impl(name, kernel, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    return library


def _quantize(
    input: Tensor, scale: Any, zero_point: Any, low: int, high: int, dtype: torch.dtype
) -> Tensor:
    return affine.quantize(input, scale, zero_point, dtype=dtype, quant_min=low, quant_max=high)


def _dequantize(
    input: Tensor,
    scale: Any,
    zero_point: Any,
    low: int,
    high: int,
    dtype: torch.dtype,
    *,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    return affine.dequantize(input, scale, zero_point, dtype=out_dtype or torch.float32)


def _quantize_channels(
    input: Tensor,
    scales: Tensor,
    zero_points: Tensor,
    axis: int,
    low: int,
    high: int,
    dtype: torch.dtype,
) -> Tensor:
    codes = {"dtype": dtype, "quant_min": low, "quant_max": high}
    return affine.quantize(input, scales, zero_points, axis=axis, **codes)  # type: ignore[arg-type]


def _dequantize_channels(
    input: Tensor,
    scales: Tensor,
    zero_points: Tensor | None,
    axis: int,
    low: int,
    high: int,
    dtype: torch.dtype,
    *,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    zero = torch.zeros_like(scales) if zero_points is None else zero_points
    return affine.dequantize(input, scales, zero, axis=axis, dtype=out_dtype or torch.float32)


def _dequantize_groups(
    input: Tensor,
    scales: Tensor,
    zero_points: Tensor | None,
    low: int,
    high: int,
    dtype: torch.dtype,
    group_size: int,
    output_dtype: torch.dtype,
) -> Tensor:
    zero = torch.zeros_like(scales) if zero_points is None else zero_points
    return affine.dequantize(input, scales, zero, axis=0, group_size=group_size, dtype=output_dtype)


def _measure(
    input: Tensor, low: int, high: int, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    return affine.dynamic_qparams(input, dtype=dtype, quant_min=low, quant_max=high)


def _measure_symmetric(
    input: Tensor, low: int, high: int, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    return affine.dynamic_qparams(input, dtype=dtype, quant_min=low, quant_max=high, symmetric=True)


_MEASURED = "(Tensor input, int quant_min, int quant_max, float eps, ScalarType dtype)"
_CHANNELS = "Tensor scales, Tensor zero_points, int axis"
_OWN: dict[str, Callable[..., Any]] = {
    f"quantize_per_tensor({_NUMBERS}, {_CODES}) -> Tensor": _quantize,
    f"quantize_per_tensor.tensor({_TENSORS}, {_CODES}) -> Tensor": _quantize,
    f"dequantize_per_tensor({_NUMBERS}, {_CODES}, {_OUT}) -> Tensor": _dequantize,
    f"dequantize_per_tensor.tensor({_TENSORS}, {_CODES}, {_OUT}) -> Tensor": _dequantize,
    f"quantize_per_channel(Tensor input, {_CHANNELS}, {_CODES}) -> Tensor": _quantize_channels,
    "dequantize_per_channel(Tensor input, Tensor scales, Tensor? zero_points, int axis, "
    f"{_CODES}, {_OUT}) -> Tensor": _dequantize_channels,
    "dequantize_per_channel_group(Tensor input, Tensor scales, Tensor? zero_points, "
    f"{_CODES}, int group_size, ScalarType output_dtype) -> Tensor": _dequantize_groups,
    f"choose_qparams.tensor{_MEASURED} -> (Tensor, Tensor)": _measure,
    f"choose_qparams_symmetric.tensor{_MEASURED} -> (Tensor, Tensor)": _measure_symmetric,
}
