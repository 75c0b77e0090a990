"""Padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from qfx.export.onnx.values import Dequantized, Number, Operand

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer


def pad(
    w: Writer, input: Operand, *, pad: Sequence[int | Number], mode: str, value: float | None
) -> ir.Value:
    """Zeros beside codes of 8 bits are padded as codes.

    OpenVINO 2026.4 gets one dim alone wrong otherwise; ONNX Runtime 1.32 pads no codes of 16 bits.
    """
    if mode != "constant" or value or not isinstance(input, Dequantized):
        return padded(w, input, pad, mode, value)
    dtype = w.info(input.codes).dtype
    known = isinstance(input.scale, float) and isinstance(input.zero_point, int)
    if not known or dtype not in (torch.uint8, torch.int8):
        return padded(w, input, pad, mode, value)
    codes = padded(w, input.codes, pad, mode, input.zero_point)  # type: ignore[arg-type]
    w.tell(codes, dataclasses.replace(w.results, dtype=dtype))
    numbers = w.scalar(input.scale, torch.float32), w.scalar(input.zero_point, dtype)  # type: ignore[arg-type]
    made = w.op("DequantizeLinear", codes, *numbers)
    w.tell(made, w.results)
    bounds = w.bounds.get(id(input))
    if bounds is not None:
        w.coded[id(made)], w.bounds[id(made)] = (codes, bounds), bounds
    return made


def padded(
    w: Writer, input: Operand, pad: Sequence[int | Number], mode: str, value: float | None
) -> ir.Value:
    """``F.pad``: pairs from the last dim on."""
    kinds = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    info = w.info(input)
    dims = len(pad) // 2
    begins, ends = list(pad[0::2])[::-1], list(pad[1::2])[::-1]
    fill = None
    if mode == "constant":
        fill = w.scalar(_number(0 if value is None else value, info.dtype), info.dtype)
    others = [0] * (info.rank - dims)  # not by axes: ONNX Runtime 1.32 loses them behind transposes
    amounts = w.vector([*others, *begins, *others, *ends])
    return w.op("Pad", input, amounts, fill, mode=kinds[mode])


def _number(value: float, dtype: torch.dtype) -> float:
    return float(value) if dtype.is_floating_point else int(value)
