"""How kernels over weights in few bits are tried, for :mod:`qfx.backends.probing.probe`.

Layers of every critical size whose codes run through all values that they can have; the exact
result is computed in float64. Float kernels that sum in another order differ by rounding errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx.backends.probing.trials import Combination, Probe, ProbeRun
from qfx.backends.stored_weights import embedding_rows as bags
from qfx.backends.stored_weights.packs import (
    FBGEMM_HALF,
    INT4,
    INT8,
    ONEDNN_HALF,
    LinearGeometry,
    PackedKernel,
)
from qfx.quant.qparams import QParams
from qfx.quant.reference_form import QuantizedWeight

_STEP = 1e-3
_SHAPES = ((1, 16, 64), (3, 32, 128), (17, 16, 256), (16, 48, 512))  # rows, outputs, inputs
_ODD_SHAPES = ((1, 1, 1), (3, 5, 7), (2, 17, 31), (1, 8, 24))


def _ramp(low: int, high: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Every code of a range, over and over, in a row of co-prime steps."""
    count = int(torch.Size(shape).numel())
    steps = torch.arange(count) * 7 % (high - low + 1) + low
    return steps.to(dtype).reshape(shape)


def _spread(*shape: int) -> Tensor:
    count = int(torch.Size(shape).numel())
    return torch.linspace(-1, 1, count, dtype=torch.float32).roll(count // 3).reshape(shape)


def _quantized(outputs: int, inputs: int, codes: Tensor, group: int | None) -> QuantizedWeight:
    shape = (outputs,) if group is None else (outputs, inputs // group)
    scale = (_spread(*shape).abs() + 0.5) / (float(codes.float().abs().max()) * inputs**0.5)
    zero = torch.zeros(shape, dtype=torch.int32)
    if codes.dtype == torch.uint8:
        zero = _ramp(0, 15, shape, torch.int32)
    ends = torch.iinfo(codes.dtype)
    qparams = QParams(scale, zero, codes.dtype, ends.min, ends.max, 0, group)
    return QuantizedWeight("probe", codes, qparams, 1.0, 0)


def _forms(kernel: PackedKernel) -> Iterator[LinearGeometry]:
    for rows, outputs, inputs in (*_SHAPES, *(() if kernel is INT4 else _ODD_SHAPES)):
        bias = _spread(outputs)
        shape = (outputs, inputs)
        if kernel in (ONEDNN_HALF, FBGEMM_HALF):
            halves = _spread(*shape).half() / inputs**0.5
            yield LinearGeometry("probe", rows, *shape, None, halves, bias)
        elif kernel is INT8:
            weight = _quantized(*shape, _ramp(-128, 127, shape, torch.int8), None)
            yield LinearGeometry("probe", rows, *shape, weight, None, bias)
        else:
            for low, high, dtype in ((-8, 7, torch.int8), (0, 15, torch.uint8)):
                weight = _quantized(*shape, _ramp(low, high, shape, dtype), 32)
                yield LinearGeometry("probe", rows, *shape, weight, None, bias)


def _linear_trials(kernel: PackedKernel, combination: Combination) -> Iterator[ProbeRun]:
    for form in _forms(kernel):
        x = _spread(form.rows, form.inputs)
        got = kernel.run(x, *kernel.pack(form), form.bias)
        weight = form.halves
        if form.quantized is not None:
            weight = form.quantized.qparams.dequantize(form.quantized.integers, torch.float64)
        assert weight is not None
        assert form.bias is not None
        exact = F.linear(x.double(), weight.double(), form.bias.double())
        yield ProbeRun(f"{form.rows}x{form.outputs}x{form.inputs}", got / _STEP, exact / _STEP)


def _bag_trials(bits: int, combination: Combination) -> Iterator[ProbeRun]:
    for rows, width in ((7, 16), (33, 30), (5, 64), (9, 130)):
        codes = _ramp(0, 2**bits - 1, (rows, width), torch.uint8)
        scale = (_spread(rows).abs() + 0.5) / 2**bits
        scale = scale.half().float()
        zero = _ramp(0, 2**bits - 1, (rows,), torch.int32)
        packed = bags.pack_rows(codes, scale, zero, bits)
        exact = (codes.double() - zero.double()[:, None]) * scale.double()[:, None]
        index = torch.tensor([0, rows - 1, 1, 1, 2, 0, 3])
        for dtype in (torch.int64, torch.int32):
            got = bags.sum_of_rows(index.to(dtype), packed, torch.tensor([0, 2, 2, 5]), bits=bits)
            picked = exact[index]
            sums = [picked[:2], picked[2:2], picked[2:5], picked[5:]]
            truth = torch.stack([part.sum(0) for part in sums])
            step = 1e-3 if bits == 8 else 2e-2  # 4-bit rows keep their zeros as halves
            yield ProbeRun(f"{rows}x{width} by {dtype}", got / step, truth / step)


PROBES: Mapping[str, Probe] = {
    **{k.name: partial(_linear_trials, k) for k in (INT8, INT4, ONEDNN_HALF, FBGEMM_HALF)},
    **{bags.NAMES[bits]: partial(_bag_trials, bits) for bits in (8, 4)},
}
"""How each kernel is tried, by its name in reports."""
