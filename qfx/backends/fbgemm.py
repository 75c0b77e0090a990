"""fbgemm: x86 through PyTorch's quantized dtypes, for as long as PyTorch has them."""

from __future__ import annotations

from qfx.backends import quantized_dtypes
from qfx.backends.base import Backend
from qfx.backends.defaults import defaults
from qfx.backends.hardware import needs_reduced_range
from qfx.backends.quantized_rules import quantized_rules


def backend() -> Backend:
    """The fbgemm backend for this machine."""
    quantized_dtypes.silence_deprecation()
    return Backend(
        "fbgemm",
        quantized_rules("x86", transposed_per_channel=False),
        defaults(reduce_range=needs_reduced_range()),
        quantize=quantized_dtypes.quantize,
        dequantize=quantized_dtypes.dequantize,
    )
