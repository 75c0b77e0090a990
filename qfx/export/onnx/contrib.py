"""Operators that ONNX Runtime has beside those of the standard: for its engine, never in files.

    DynamicQuantizeLSTM    measures a sequence all at once, and hidden states before every step

which is what the reference form means, but that each direction is measured alone, in codes from 0
to 255: it rounds no more than the reference, and elsewhere. Weights are (inputs, gates) there.

Where codes end at 127, products of 8 bits saturate on this CPU: weights become unsigned then, which
ONNX Runtime multiplies without saturation everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qfx.export.onnx.values import Dequantized, Operand
from qfx.export.problems import CannotWrite

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer

DOMAIN = "com.microsoft"
_MIDDLE, _LARGEST = 128, 255


def measured_lstm(
    w: Writer,
    input: Operand,
    weights: Sequence[tuple[Operand, Operand]],
    bias: ir.Value | None,
    states: Sequence[ir.Value],
    codes: tuple[torch.dtype, int, int, bool],
    **attributes: Any,
) -> tuple[ir.Value, ...]:
    """A layer: the sequence, and the final states.

    Args:
        w: where it is written.
        input: float, (length, batch, features).
        weights: of the input and of the hidden states, for each direction, in the order of ONNX.
        bias: as the operator takes it.
        states: initial ones, or none.
        codes: as what is measured is rounded: dtype, smallest and largest code, symmetric.
        attributes: of the operator.
    """
    unsigned = codes[2] < _LARGEST
    of_input, of_hidden = ([pair[i] for pair in weights] for i in (0, 1))
    matrices, numbers = [], []
    for parts in (of_input, of_hidden):
        matrix, *rest = _stacked(parts, unsigned)
        matrices.append(matrix)
        numbers += rest
    given = states or (None, None)
    operands = (*matrices, bias, None, *given, None, *numbers)
    return w.ops("DynamicQuantizeLSTM", input, *operands, results=3, domain=DOMAIN, **attributes)


def unrounded(w: Writer, input: Operand) -> Operand:
    """What was measured and rounded to make ``input``, for operators that do that themselves."""
    if isinstance(input, Dequantized) and id(input.scale) in w.measured:
        return w.measured[id(input.scale)][0]
    return input


def _stacked(weights: Sequence[Operand], unsigned: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of all directions the codes (inputs, gates), and scale and zero point of each gate."""
    codes, scales = zip(*map(_codes_of, weights), strict=True)
    whole = torch.stack(codes)
    if unsigned:
        whole = whole.to(torch.int16).add_(_MIDDLE).to(torch.uint8)
    scale = torch.stack(scales)
    return whole, scale, torch.full(scale.shape, _MIDDLE if unsigned else 0, dtype=whole.dtype)


def _codes_of(weight: Operand) -> tuple[Tensor, Tensor]:
    if not isinstance(weight, Dequantized) or not weight.stored:
        raise CannotWrite("a recurrent layer whose weights are no codes", "Quantize them.")
    codes = weight.codes
    shifted = bool(torch.as_tensor(weight.zero_point).any())
    whole = weight.group_size is None and weight.axis in (None, 0) and not shifted
    if not isinstance(codes, Tensor) or codes.dtype != torch.int8 or not whole:
        raise CannotWrite(
            "a recurrent layer with weights in other codes than symmetric ones of 8 bits, a scale "
            "for each output or for all",
            "Quantize its weights to int8 per channel.",
        )
    scale = torch.as_tensor(weight.scale, dtype=torch.float32).reshape(-1)
    return codes.mT.contiguous(), scale.expand(codes.shape[0])
