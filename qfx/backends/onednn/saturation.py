"""Do oneDNN's kernels on plain tensors saturate here? See :mod:`qfx.backends.saturation`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from qfx.backends.onednn import kernels, packing
from qfx.backends.onednn.arguments import NO_POST_OP, Conv, Geometry, Linear, Operands, OutputFormat
from qfx.backends.saturation import (
    CONVOLUTIONS,
    DEPTHWISE,
    LINEARS,
    SaturationTrial,
    largest,
    measured,
    products,
)


def saturates() -> bool:
    """Whether oneDNN's kernels on plain tensors saturate."""
    return measured("onednn", _trials)


_FLOAT = OutputFormat(1.0, 0, torch.float32)


def _trials() -> Iterator[SaturationTrial]:
    for layer in LINEARS:
        yield partial(_linear, *layer), layer[1]
    for conv in (*CONVOLUTIONS, *DEPTHWISE):
        yield partial(_conv, *conv), products(*conv)


def _linear(rows: int, inputs: int, outputs: int) -> Tensor:
    codes, weight = largest((rows, inputs), torch.uint8), largest((outputs, inputs), torch.int8)
    packed = packing.pack_linear(weight, codes.shape)
    read = Operands(codes, 1.0, 0, packed, *_unit_scales(outputs))
    args = Linear.of(read, None, _FLOAT, NO_POST_OP)
    result: Tensor = torch.ops.onednn.qlinear_pointwise.default(*args)
    return result


def _conv(dims: int, inputs: int, outputs: int, size: int, groups: int) -> Tensor:
    codes = kernels.channels_last(largest((1, inputs, *[size + 5] * dims), torch.uint8))
    weight = largest((outputs, inputs // groups, *[size] * dims), torch.int8)
    ones = [1] * dims
    geometry = Geometry(ones, [0] * dims, ones, groups)
    scales, zeros = _unit_scales(outputs)
    packed = packing.pack_conv(weight, scales, 1.0, 0, *geometry, codes.shape)
    kernel = getattr(torch.ops.onednn, f"qconv{dims}d_pointwise").default
    read = Operands(codes, 1.0, 0, packed, scales, zeros)
    result: Tensor = kernel(*Conv.of(read, None, geometry, _FLOAT, NO_POST_OP))
    return result


def _unit_scales(outputs: int) -> tuple[Tensor, Tensor]:
    return torch.ones(outputs, dtype=torch.float32), torch.zeros(outputs, dtype=torch.int8)
