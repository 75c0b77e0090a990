"""Constant weights in integers: correct-bias and reference ask for the same ones.

What is kept of a weight, by the end of its name: ``q`` codes, ``q4`` two 4-bit codes a byte,
``half`` float16; ``scale`` and ``zero_point`` where there is more than one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qfx.errors import CalibrationError, ConfigError
from qfx.framework.pass_context import PassContext
from qfx.private_attributes import version_of
from qfx.quant.observers.base import require_finite
from qfx.quant.qparams import QParams, quantize_weight
from qfx.quant.spec import QuantSpec
from qfx.semantics import packing


class QuantizedWeights:
    """Quantizes each weight once per spec, as long as nobody writes to it."""

    def __init__(self) -> None:
        self._done: dict[tuple[int, QuantSpec], tuple[Tensor, int, Tensor, QParams]] = {}

    def get(self, name: str, weight: Tensor, spec: QuantSpec) -> tuple[Tensor, QParams]:
        """Quantize by :func:`qfx.quant.qparams.quantize_weight`; errors name the weight."""
        if weight.is_inference():  # has no version to tell whether it was written to
            return _quantize(name, weight, spec)
        key = id(weight), spec
        if key in self._done:
            known, version, integers, qparams = self._done[key]
            if known is weight and version == version_of(weight):
                return integers, qparams
        integers, qparams = _quantize(name, weight, spec)
        self._done[key] = weight, version_of(weight), integers, qparams
        return integers, qparams

    def put(self, name: str, weight: Tensor, spec: QuantSpec, qparams: QParams) -> None:
        """Quantize ``weight`` with qparams that were found elsewhere; its errors name it."""
        try:
            require_finite(weight, (weight,))
        except CalibrationError as error:
            raise CalibrationError(f"{name}: {error}") from error
        integers = qparams.quantize(weight.detach())
        self._done[id(weight), spec] = weight, version_of(weight), integers, qparams

    def choose(self, weight: Tensor, spec: QuantSpec, integers: Tensor, qparams: QParams) -> None:
        """Let ``weight`` have codes that were found elsewhere."""
        self._done[id(weight), spec] = weight, version_of(weight), integers, qparams


def _quantize(name: str, weight: Tensor, spec: QuantSpec) -> tuple[Tensor, QParams]:
    try:
        return quantize_weight(weight, spec)
    except (CalibrationError, ConfigError) as error:
        raise type(error)(f"{name}: {error}") from error


def quantized_weights(ctx: PassContext) -> QuantizedWeights:
    """The quantized weights of the pipeline that is running."""
    if not ctx.has(QuantizedWeights):
        ctx.put(QuantizedWeights())
    return ctx.get(QuantizedWeights)


@dataclass(frozen=True)
class StoredWeight:
    """What is kept of a weight.

    Attributes:
        parts: the end of a name -> the tensor.
        qparams: None for halves.
    """

    parts: Mapping[str, Tensor]
    qparams: QParams | None


def stored_weight(
    name: str, weight: Tensor, spec: QuantSpec, quantized: QuantizedWeights
) -> StoredWeight:
    """What is kept of ``weight`` under ``spec``: two codes a byte where they fit."""
    if spec.dtype == torch.float16:
        return StoredWeight({"half": _in_rows(_half(name, weight.detach()))}, None)
    integers, qparams = quantized.get(name, weight, spec)
    bounds = (spec.dtype, qparams.quant_min, qparams.quant_max)
    parts = {"q": _in_rows(integers)}
    if packing.packs(tuple(integers.shape), *bounds):
        parts = {"q4": packing.pack(integers)}
    if isinstance(qparams.scale, Tensor) and isinstance(qparams.zero_point, Tensor):
        zero = qparams.zero_point
        kept = zero if zero.is_floating_point() else zero.to(integers.dtype)
        parts |= {"scale": qparams.scale, "zero_point": kept}
    return StoredWeight(parts, qparams)


def _in_rows(weight: Tensor) -> Tensor:
    """``weight``, if it is a matrix, as kernels read it, however the float one lies in memory."""
    return weight.contiguous() if weight.dim() == 2 else weight


def _half(name: str, weight: Tensor) -> Tensor:
    half = weight.half()
    if bool(half.isfinite().all()):
        return half
    raise CalibrationError(
        f"{name} holds values up to {float(weight.abs().max()):g}, and float16 ends at 65504: "
        "keep it in integers, or leave that layer float"
    )
