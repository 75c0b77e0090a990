"""Stubs, quantize and dequantize."""

from __future__ import annotations

from qfx.semantics import affine, markers, packing
from qfx.vocab.definition import Kind, define

QUANT_STUB = define(markers.quant_stub, Kind.STUB, inert=True)
DEQUANT_STUB = define(markers.dequant_stub, Kind.STUB, inert=True)
QUANTIZE = define(affine.quantize, Kind.QUANT)
DYNAMIC_QPARAMS = define(affine.dynamic_qparams, Kind.QUANT)
DEQUANTIZE = define(affine.dequantize, Kind.QUANT)
UNPACK = define(packing.unpack, Kind.QUANT)
WIDEN = define(packing.widen, Kind.QUANT)
