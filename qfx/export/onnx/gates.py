"""The gates of recurrent layers, in the order of ONNX.

i o f c where PyTorch has i f g o, z r h where it has r z n. Biases of input and hidden state are
one vector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qfx.export.onnx.values import Dequantized, Operand

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer

_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


def stacked(w: Writer, kind: str, weights: Sequence[Operand]) -> ir.Value:
    """(directions, gates * hidden, inputs), gates in the order of ONNX."""
    each = [w.op("Unsqueeze", in_order(w, kind, weight), w.vector([0])) for weight in weights]
    return each[0] if len(each) == 1 else w.op("Concat", *each, axis=0)


def in_order(w: Writer, kind: str, weight: Operand) -> Operand:
    """A weight or bias with its gates in the order of ONNX."""
    order = _ORDER[kind]
    if isinstance(weight, Tensor):
        return _gates(weight, order)
    if isinstance(weight, Dequantized) and weight.stored and weight.axis in (None, 0):
        codes, scale, zero_point = (
            _gates(n, order) if isinstance(n, Tensor) and n.dim() else n
            for n in (weight.codes, weight.scale, weight.zero_point)
        )
        return dataclasses.replace(
            weight, codes=codes, scale=scale, zero_point=zero_point, written={}
        )
    if len(order) == 1:
        return weight
    parts = w.ops("Split", weight, results=len(order), axis=0, num_outputs=len(order))
    return w.op("Concat", *(parts[i] for i in order), axis=0)


def _gates(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    parts = tensor.chunk(len(order))
    return torch.cat([parts[i] for i in order])


def one_bias(w: Writer, kind: str, biases: Sequence[tuple[Operand, Operand]]) -> ir.Value | None:
    """(directions, 2 * gates * hidden): of the input, then of the hidden state."""
    if not biases:
        return None
    each = [w.op("Concat", *(in_order(w, kind, part) for part in pair), axis=0) for pair in biases]
    rows = [w.op("Unsqueeze", row, w.vector([0])) for row in each]
    return rows[0] if len(rows) == 1 else w.op("Concat", *rows, axis=0)
