"""Embeddings by ``torch.ops.quantized`` over packed weights: rows of 8 or 4 bits, scaled as read.

Packing wants a tensor of a quantized dtype with a float scale and zero point per row. 4-bit rows
keep both as halves, so results are off by up to a 2000th of what a code stands for.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from qfx.backends.base import Emit, Emitter, KernelRule, LoweringSite
from qfx.backends.packing_engine import engine
from qfx.backends.stored_weights import embedding_rows
from qfx.backends.stored_weights import emitters as weight_emit
from qfx.quant.annotation import Kernel, mark_kernel
from qfx.quant.reference_form import QuantizedWeight
from qfx.rewrite.pattern import Mismatch

_ops = torch.ops.quantized
_DTYPES = {8: torch.quint8, 4: torch.quint4x2}
_LOOKUPS = {8: _ops.embedding_byte.default, 4: _ops.embedding_4bit.default}
_BAGS = {8: _ops.embedding_bag_byte.default, 4: _ops.embedding_bag_4bit.default}


def embedding(input: Tensor, packed: object, *, bits: int) -> Tensor:
    """The rows (*, width) that integers (*) name."""
    rows: Tensor = _LOOKUPS[bits](packed, embedding_rows.in_a_row(input))
    return rows.view(*input.shape, rows.shape[1])


def embedding_bag(
    input: Tensor,
    packed: object,
    offsets: Tensor | None = None,
    per_sample_weights: Tensor | None = None,
    *,
    bits: int,
    mode: str = "sum",
    include_last_offset: bool = False,
) -> Tensor:
    """As :func:`qfx.backends.stored_weights.embedding_rows.sum_of_rows`, over packed parameters."""

    def kernel(x: Tensor, _: Tensor, at: Tensor, weights: Tensor | None, last: bool) -> Tensor:
        sums: Tensor = _BAGS[bits](packed, x, at, False, 0, False, weights, None, last)
        return sums

    bags = (offsets, per_sample_weights, mode, include_last_offset)
    return embedding_rows.pooled(kernel, input, packed, *bags)


def lookups(engine_name: str) -> tuple[KernelRule, ...]:
    """The rows of both embeddings, packed under an engine."""
    return weight_emit.lookups(_emit_embedding(engine_name), _emit_bag(engine_name))


def _emit_embedding(engine_name: str) -> Emit:
    def emit(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
        kept = weight_emit.WeightNodes.of(em, site)
        if kept.scale is None or kept.group_size is not None or kept.columns is not None:
            return weight_emit.embedding(em, site)
        bits = 8 if kept.packed is None else 4
        packed = _packed(em, site, engine_name, bits)
        y = weight_emit.call(em, site, embedding, site.arguments["input"], packed, bits=bits)
        mark_kernel(y, Kernel("quantized.embedding_" + _suffix(bits), 0))
        return y

    return emit


def _emit_bag(engine_name: str) -> Emit:
    def emit(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
        bits = weight_emit.bits_of_rows(site, weight_emit.WeightNodes.of(em, site))
        if not bits:
            return weight_emit.embedding_bag(em, site)
        packed = _packed(em, site, engine_name, bits)
        y = weight_emit.bag_call(em, site, embedding_bag, packed, bits)
        mark_kernel(y, Kernel("quantized.embedding_bag_" + _suffix(bits), 0))
        return y

    return emit


def _suffix(bits: int) -> str:
    return "byte" if bits == 8 else "4bit"


def _packed(em: Emitter, site: LoweringSite, engine_name: str, bits: int) -> fx.Node:
    weight = site.weight
    assert weight is not None

    def recipe() -> object:
        with engine(engine_name):
            return _ops.embedding_bag_prepack(_rows(weight, bits))

    return em.packed(("embedding_bag_prepack", weight.name, engine_name), recipe)


def _rows(weight: QuantizedWeight, bits: int) -> Tensor:
    """The weight with float qparams per row; quantizing what codes stand for gives the codes."""
    codes, scale, zero = weight_emit.from_zero(weight.integers, weight.qparams, bits)
    values = (codes.float() - zero.unsqueeze(1)) * scale.unsqueeze(1)
    return torch.quantize_per_channel(values, scale, zero, 0, _DTYPES[bits])
