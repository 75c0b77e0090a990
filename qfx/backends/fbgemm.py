"""fbgemm: x86 through PyTorch's quantized dtypes, for as long as PyTorch has them."""

from __future__ import annotations

from qfx.backends.base import Backend
from qfx.backends.defaults import defaults
from qfx.backends.packing_engine import silence_deprecation
from qfx.backends.quantized import dtypes as quantized_dtypes
from qfx.backends.quantized.saturation import reduces
from qfx.backends.quantized.table import quantized_rules


def backend() -> Backend:
    """The fbgemm backend for this machine."""
    silence_deprecation()
    narrow = reduces("x86")
    return Backend(
        "fbgemm",
        quantized_rules("x86", transposed_per_channel=False),
        defaults(reduce_range=narrow),
        quantize=quantized_dtypes.quantize,
        dequantize=quantized_dtypes.dequantize,
        saturates=narrow,
        clamp=quantized_dtypes.clamp_codes,
    )
