"""Products and lookups: what multiplies by weights, attends, recurs, or picks rows of a weight."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import nn

from qfx.semantics import layers, packed_sequences, recurrent
from qfx.torch_private import PACKERS
from qfx.vocab.definition import Kind, define

# -- multiply-accumulate -------------------------------------------------------------------------
CONV1D = define(
    layers.conv1d, Kind.MATMUL, (nn.Conv1d,), (F.conv1d,), name="conv1d", dims=1, layer=True
)
CONV2D = define(
    layers.conv2d, Kind.MATMUL, (nn.Conv2d,), (F.conv2d,), name="conv2d", dims=2, layer=True
)
CONV3D = define(
    layers.conv3d, Kind.MATMUL, (nn.Conv3d,), (F.conv3d,), name="conv3d", dims=3, layer=True
)
CONV_TRANSPOSE1D = define(
    layers.conv_transpose1d,
    Kind.MATMUL,
    (nn.ConvTranspose1d,),
    (F.conv_transpose1d,),
    name="conv_transpose1d",
    dims=1,
    layer=True,
    transposed=True,
)
CONV_TRANSPOSE2D = define(
    layers.conv_transpose2d,
    Kind.MATMUL,
    (nn.ConvTranspose2d,),
    (F.conv_transpose2d,),
    name="conv_transpose2d",
    dims=2,
    layer=True,
    transposed=True,
)
CONV_TRANSPOSE3D = define(
    layers.conv_transpose3d,
    Kind.MATMUL,
    (nn.ConvTranspose3d,),
    (F.conv_transpose3d,),
    name="conv_transpose3d",
    dims=3,
    layer=True,
    transposed=True,
)
LINEAR = define(layers.linear, Kind.MATMUL, (nn.Linear,), (F.linear,), dims=0, layer=True)
MATMUL = define(
    layers.matmul,
    Kind.MATMUL,
    (),
    (torch.matmul, torch.bmm, torch.mm, torch.mv, torch.linalg.matmul, operator.matmul),
    ("matmul", "bmm", "mm", "mv"),
)
BILINEAR = define(layers.bilinear, Kind.MATMUL, (nn.Bilinear,), (F.bilinear,))
ATTENTION_WEIGHTS = define(layers.attention_weights, Kind.MATMUL, reads_scores=True)
ADDITIVE_MASK = define(layers.additive_mask, Kind.ACTIVATION)
ATTENTION = define(
    layers.attention, Kind.MATMUL, (), (F.scaled_dot_product_attention,), reads_scores=True
)
LSTM = define(recurrent.lstm, Kind.MATMUL, (nn.LSTM,))
GRU = define(recurrent.gru, Kind.MATMUL, (nn.GRU,))
RNN = define(recurrent.rnn, Kind.MATMUL, (nn.RNN,))
LSTM_CELL = define(recurrent.lstm_cell, Kind.MATMUL, (nn.LSTMCell,))
GRU_CELL = define(recurrent.gru_cell, Kind.MATMUL, (nn.GRUCell,))
RNN_CELL = define(recurrent.rnn_cell, Kind.MATMUL, (nn.RNNCell,))
PACK_PADDED = define(packed_sequences.pack_padded, Kind.REDUCE, (), PACKERS[:1])
PAD_PACKED = define(packed_sequences.pad_packed, Kind.REDUCE, (), PACKERS[1:])

# -- lookup --------------------------------------------------------------------------------------
EMBEDDING = define(layers.embedding, Kind.LOOKUP, (nn.Embedding,), (F.embedding, torch.embedding))
EMBEDDING_BAG = define(layers.embedding_bag, Kind.LOOKUP, (nn.EmbeddingBag,), (F.embedding_bag,))
