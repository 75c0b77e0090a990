"""Groups of operations, told by their traits or listed by rising dims."""

from __future__ import annotations

from qfx.vocab.definition import ops
from qfx.vocab.elementwise import FMAX, FMIN, MAXIMUM, MINIMUM
from qfx.vocab.products import GRU, GRU_CELL, LSTM, LSTM_CELL, RNN, RNN_CELL
from qfx.vocab.quantization import DEQUANT_STUB, DEQUANTIZE, QUANT_STUB, UNPACK, WIDEN
from qfx.vocab.reductions import (
    ADAPTIVE_AVG_POOL1D,
    ADAPTIVE_AVG_POOL2D,
    ADAPTIVE_AVG_POOL3D,
    ADAPTIVE_MAX_POOL1D,
    ADAPTIVE_MAX_POOL2D,
    ADAPTIVE_MAX_POOL3D,
    AVG_POOL1D,
    AVG_POOL2D,
    AVG_POOL3D,
    LP_POOL1D,
    LP_POOL2D,
    LP_POOL3D,
    MAX_POOL1D,
    MAX_POOL2D,
    MAX_POOL3D,
    MAX_UNPOOL1D,
    MAX_UNPOOL2D,
    MAX_UNPOOL3D,
)

STUBS = (QUANT_STUB, DEQUANT_STUB)
RESTORING = (DEQUANTIZE, UNPACK, WIDEN)
"""What makes a weight of what is stored of it."""

SEQUENCES = (LSTM, GRU, RNN)
LAYERS = tuple(op for op in ops() if op.layer)
"""Convolutions, transposed ones too, and linear layers."""

CONVOLUTIONS = tuple(op for op in LAYERS if op.dims and not op.transposed)
TRANSPOSED = tuple(op for op in LAYERS if op.transposed)
OUTPUTS_FIRST = tuple(op for op in LAYERS if not op.transposed)
"""Layers whose weight has the output channels first."""

TRAILING_NORMS = tuple(op for op in ops() if op.normalizes_last)
"""Norms over the last dims, each element of which has a weight of its own."""

MAX_POOLS = (MAX_POOL1D, MAX_POOL2D, MAX_POOL3D)
MAX_UNPOOLS = (MAX_UNPOOL1D, MAX_UNPOOL2D, MAX_UNPOOL3D)
LP_POOLS = (LP_POOL1D, LP_POOL2D, LP_POOL3D)
AVG_POOLS = (AVG_POOL1D, AVG_POOL2D, AVG_POOL3D)
ADAPTIVE_AVG_POOLS = (ADAPTIVE_AVG_POOL1D, ADAPTIVE_AVG_POOL2D, ADAPTIVE_AVG_POOL3D)
ADAPTIVE_MAX_POOLS = (ADAPTIVE_MAX_POOL1D, ADAPTIVE_MAX_POOL2D, ADAPTIVE_MAX_POOL3D)
ADAPTIVE_POOLS = (*ADAPTIVE_AVG_POOLS, *ADAPTIVE_MAX_POOLS)
"""By rising dims."""

EXTREMES = (MAXIMUM, MINIMUM, FMAX, FMIN)
CELLS = (LSTM_CELL, GRU_CELL, RNN_CELL)
RECURRENT = (*SEQUENCES, *CELLS)
"""Layers with a hidden state: several weights, and activations that are measured inside."""
