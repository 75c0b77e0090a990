"""How each operation is written in ONNX: one row an operation, for files and for docs/ops.md.

An emitter takes the :class:`~qfx.export.onnx.writer.Writer` and the arguments of the operation by
name, with what stands for their values; it returns what stands for the result. What ONNX can't say
is a :class:`~qfx.export.problems.CannotWrite`. Post-ops are written by their own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qfx import vocab
from qfx.export.onnx import (
    activations,
    attention,
    indexing,
    layers,
    lookups,
    norms,
    numbers,
    pools,
    quantization,
    recurrent,
    shapes,
)
from qfx.vocab import OpDef


@dataclass(frozen=True)
class Emitter:
    """How an operation is written.

    Attributes:
        write: the emitter.
        operators: of ONNX that it is written with; none for what computes nothing.
        limits: what can't be said.
    """

    write: Callable[..., Any]
    operators: tuple[str, ...] = ()
    limits: str = ""


def _row(write: Callable[..., Any], operators: str = "", limits: str = "") -> Emitter:
    return Emitter(write, tuple(operators.split()), limits)


_CONV = _row(layers.conv, "Conv ConvInteger")
_TRANSPOSED = _row(layers.conv_transpose, "ConvTranspose")
_MAX_POOL = _row(pools.max_pool, "MaxPool", "indices")
_AVG_POOL = _row(pools.avg_pool, "AveragePool", "divisor_override with ceil_mode")
_ADAPTIVE = "sizes that do not divide"
_CELL = "MatMul Add Split Sigmoid Tanh Mul"
_RESHAPE = _row(shapes.reshape, "Reshape")

EMITTERS: Mapping[OpDef, Emitter] = {
    # multiply-accumulate
    **dict.fromkeys(vocab.CONVOLUTIONS[:3], _CONV),
    **dict.fromkeys(vocab.TRANSPOSED, _TRANSPOSED),
    vocab.LINEAR: _row(layers.linear, "MatMul Add MatMulInteger"),
    vocab.MATMUL: _row(layers.matmul, "MatMul"),
    vocab.ATTENTION: _row(attention.attention, "MatMul Softmax"),
    vocab.ATTENTION_WEIGHTS: _row(attention.attention_weights, "MatMul Softmax"),
    vocab.ADDITIVE_MASK: _row(attention.additive_mask, "Where"),
    vocab.LSTM: _row(recurrent.lstm, "LSTM", "packed sequences"),
    vocab.GRU: _row(recurrent.gru, "GRU", "packed sequences"),
    vocab.RNN: _row(recurrent.rnn, "RNN", "packed sequences"),
    vocab.LSTM_CELL: _row(recurrent.lstm_cell, _CELL),
    vocab.GRU_CELL: _row(recurrent.gru_cell, _CELL),
    vocab.RNN_CELL: _row(recurrent.rnn_cell, "MatMul Add Tanh"),
    # lookups
    vocab.EMBEDDING: _row(lookups.embedding, "Gather"),
    vocab.EMBEDDING_BAG: _row(
        lookups.embedding_bag, "Gather ReduceSum ReduceMean ReduceMax MatMul", "padding_idx"
    ),
    # arithmetic
    vocab.ADD: _row(activations.add, "Add"),
    vocab.SUB: _row(activations.sub, "Sub"),
    vocab.MUL: _row(activations.mul, "Mul"),
    vocab.DIV: _row(activations.div, "Div"),
    vocab.CAST: _row(activations.cast, "Cast"),
    # activations
    vocab.RELU: _row(activations.relu, "Relu"),
    vocab.CLAMP: _row(activations.clamp, "Clip"),
    vocab.LEAKY_RELU: _row(activations.leaky_relu, "LeakyRelu"),
    vocab.ELU: _row(activations.elu, "Elu"),
    vocab.HARDSWISH: _row(activations.hardswish, "HardSwish"),
    vocab.SILU: _row(activations.silu, "Sigmoid Mul"),
    vocab.GELU: _row(activations.gelu, "Gelu"),
    vocab.PRELU: _row(activations.prelu, "PRelu"),
    vocab.SIGMOID: _row(activations.sigmoid, "Sigmoid"),
    vocab.HARDSIGMOID: _row(activations.hardsigmoid, "HardSigmoid"),
    vocab.TANH: _row(activations.tanh, "Tanh"),
    vocab.MISH: _row(activations.mish, "Mish"),
    vocab.SOFTMAX: _row(activations.softmax, "Softmax"),
    vocab.LOG_SOFTMAX: _row(activations.log_softmax, "LogSoftmax"),
    # norms
    vocab.BATCH_NORM: _row(norms.batch_norm, "BatchNormalization"),
    vocab.LAYER_NORM: _row(norms.layer_norm, "LayerNormalization"),
    vocab.GROUP_NORM: _row(norms.group_norm, "InstanceNormalization"),
    vocab.INSTANCE_NORM: _row(norms.instance_norm, "InstanceNormalization"),
    # pools and reductions
    **dict.fromkeys(vocab.MAX_POOLS, _MAX_POOL),
    **dict.fromkeys(vocab.AVG_POOLS, _AVG_POOL),
    **dict.fromkeys(
        vocab.ADAPTIVE_AVG_POOLS,
        _row(pools.adaptive_avg_pool, "GlobalAveragePool AveragePool", _ADAPTIVE),
    ),
    **dict.fromkeys(
        vocab.ADAPTIVE_MAX_POOLS,
        _row(pools.adaptive_max_pool, "GlobalMaxPool MaxPool", _ADAPTIVE),
    ),
    vocab.INTERPOLATE: _row(pools.interpolate, "Resize", "recompute_scale_factor"),
    vocab.MEAN: _row(pools.mean, "ReduceMean GlobalAveragePool"),
    vocab.SUM: _row(pools.sum, "ReduceSum"),
    vocab.AMAX: _row(pools.amax, "ReduceMax"),
    vocab.AMIN: _row(pools.amin, "ReduceMin"),
    # shapes
    vocab.RESHAPE: _RESHAPE,
    vocab.FLATTEN: _row(shapes.flatten, "Reshape"),
    vocab.UNFLATTEN: _row(shapes.unflatten, "Reshape"),
    vocab.PERMUTE: _row(shapes.permute, "Transpose"),
    vocab.TRANSPOSE: _row(shapes.transpose, "Transpose"),
    vocab.SQUEEZE: _row(shapes.squeeze, "Squeeze"),
    vocab.UNSQUEEZE: _row(shapes.unsqueeze, "Unsqueeze"),
    vocab.CHUNK: _row(shapes.chunk, "Split"),
    vocab.SPLIT: _row(shapes.split, "Split"),
    vocab.UNBIND: _row(shapes.unbind, "Gather"),
    vocab.SELECT: _row(shapes.select, "Gather"),
    vocab.NARROW: _row(shapes.narrow, "Slice"),
    vocab.GETITEM: _row(indexing.getitem, "Slice Gather Unsqueeze", "masks, several tensors"),
    vocab.EXPAND: _row(shapes.expand, "Expand"),
    vocab.REPEAT: _row(shapes.repeat, "Tile"),
    vocab.REPEAT_INTERLEAVE: _row(shapes.repeat_interleave, "Tile Reshape"),
    vocab.ROLL: _row(shapes.roll, "Slice Concat"),
    vocab.FLIP: _row(shapes.flip, "Slice"),
    vocab.PIXEL_SHUFFLE: _row(shapes.pixel_shuffle, "DepthToSpace"),
    vocab.PIXEL_UNSHUFFLE: _row(shapes.pixel_unshuffle, "SpaceToDepth Transpose"),
    vocab.CHANNEL_SHUFFLE: _row(shapes.channel_shuffle, "Reshape Transpose"),
    vocab.PAD: _row(shapes.pad, "Pad"),
    vocab.CONTIGUOUS: _row(shapes.same),
    vocab.CLONE: _row(shapes.same),
    vocab.AFTER: _row(shapes.same),
    vocab.DROPOUT: _row(shapes.same),
    # joins
    vocab.CAT: _row(shapes.cat, "Concat"),
    vocab.STACK: _row(shapes.stack, "Unsqueeze Concat"),
    vocab.SETITEM: _row(shapes.setitem, "", "all of it"),
    # sizes and numbers
    vocab.SIZE: _row(numbers.size, "Shape"),
    vocab.DIM: _row(numbers.dim),
    vocab.DTYPE: _row(numbers.dtype),
    vocab.DEVICE: _row(numbers.device),
    vocab.GUARD: _row(numbers.guard),
    **{op: Emitter(write) for op, write in numbers.SCALARS.items()},
    # quantize and dequantize
    vocab.QUANT_STUB: _row(shapes.same),
    vocab.DEQUANT_STUB: _row(shapes.same),
    vocab.QUANTIZE: _row(quantization.quantize, "QuantizeLinear Clip"),
    vocab.DYNAMIC_QPARAMS: _row(quantization.dynamic_qparams, "DynamicQuantizeLinear"),
    vocab.DEQUANTIZE: _row(quantization.dequantize, "DequantizeLinear"),
    vocab.UNPACK: _row(quantization.unpack),
    vocab.WIDEN: _row(quantization.widen, "Cast"),
    # training
    vocab.PART: _row(shapes.part),
}
"""Every operation of inference; what belongs to training (Kind.PARAMETER) is gone by then."""
