"""qnnpack: ARM CPUs through PyTorch's quantized dtypes; its kernels run on x86 too, slower."""

from __future__ import annotations

from qfx.backends.base import Backend
from qfx.backends.defaults import defaults
from qfx.backends.packing_engine import silence_deprecation
from qfx.backends.quantized import dtypes as quantized_dtypes
from qfx.backends.quantized.saturation import reduces
from qfx.backends.quantized.table import quantized_rules


def backend() -> Backend:
    """The qnnpack backend."""
    silence_deprecation()
    narrow = reduces("qnnpack")
    return Backend(
        "qnnpack",
        quantized_rules("qnnpack", transposed_per_channel=True),
        defaults(reduce_range=narrow),
        quantize=quantized_dtypes.quantize,
        dequantize=quantized_dtypes.dequantize,
        saturates=narrow,
        clamp=quantized_dtypes.clamp_codes,
    )
