"""Constant weights in integers: correct-bias and reference ask for the same ones."""

from __future__ import annotations

from torch import Tensor

from qfx.pass_base import PassContext
from qfx.quant.qparams import QParams, quantize_weight
from qfx.quant.spec import QuantSpec


class QuantizedWeights:
    """Quantizes each weight once per spec, as long as nobody writes to it."""

    def __init__(self) -> None:
        self._done: dict[tuple[int, QuantSpec], tuple[Tensor, int, Tensor, QParams]] = {}

    def get(self, weight: Tensor, spec: QuantSpec) -> tuple[Tensor, QParams]:
        """As :func:`qfx.quant.qparams.quantize_weight`."""
        if weight.is_inference():  # has no version to tell whether it was written to
            return quantize_weight(weight, spec)
        key = id(weight), spec
        if key in self._done:
            known, version, integers, qparams = self._done[key]
            if known is weight and version == weight._version:
                return integers, qparams
        integers, qparams = quantize_weight(weight, spec)
        self._done[key] = weight, weight._version, integers, qparams
        return integers, qparams


def quantized_weights(ctx: PassContext) -> QuantizedWeights:
    """Those of the pipeline that is running."""
    if not ctx.has(QuantizedWeights):
        ctx.put(QuantizedWeights())
    return ctx.get(QuantizedWeights)
