"""How each operation is written in ONNX: one row an operation, for files and for docs/ops.md.

An emitter takes the :class:`~qfx.export.onnx.writer.Writer` and the arguments of the operation by
name, with what stands for their values; it returns what stands for the result. What ONNX can't say
is a :class:`~qfx.export.problems.CannotWrite`. Post-ops are written by their own rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qfx import vocab
from qfx.export.onnx import (
    activations,
    attention,
    cells,
    elementwise,
    indexing,
    joins,
    layers,
    lookups,
    norms,
    numbers,
    ordering,
    packed,
    pads,
    parameters,
    pools,
    quantization,
    recurrent,
    shapes,
)
from qfx.export.problems import CannotWrite
from qfx.semantics import shapes as semantics
from qfx.vocab import OpDef


@dataclass(frozen=True)
class OnnxEmitter:
    """How an operation is written.

    Attributes:
        write: the emitter.
        operators: of ONNX that it is written with; none for what computes nothing.
        limits: what can't be said.
    """

    write: Callable[..., Any]
    operators: tuple[str, ...] = ()
    limits: str = ""


def _row(write: Callable[..., object], operators: str = "", limits: str = "") -> OnnxEmitter:
    return OnnxEmitter(write, tuple(operators.split()), limits)


_CONV = _row(layers.conv, "Conv ConvInteger")
_TRANSPOSED = _row(layers.conv_transpose, "ConvTranspose")
_MAX_POOL = _row(pools.max_pool, "MaxPool", "indices")
_AVG_POOL = _row(pools.avg_pool, "AveragePool", "divisor_override with ceil_mode")
_ADAPTIVE = "sizes that do not divide"
_CELL = "MatMul Add Split Sigmoid Tanh Mul"
_RESHAPE = _row(shapes.reshape, "Reshape")

EMITTERS: Mapping[OpDef, OnnxEmitter] = {
    # multiply-accumulate
    **dict.fromkeys(vocab.CONVOLUTIONS[:3], _CONV),
    **dict.fromkeys(vocab.TRANSPOSED, _TRANSPOSED),
    vocab.LINEAR: _row(layers.linear, "MatMul Add MatMulInteger"),
    vocab.MATMUL: _row(layers.matmul, "MatMul"),
    vocab.BILINEAR: _row(layers.bilinear, "Einsum Add"),
    vocab.ATTENTION: _row(attention.attention, "MatMul Softmax"),
    vocab.ATTENTION_WEIGHTS: _row(attention.attention_weights, "MatMul Softmax"),
    vocab.ADDITIVE_MASK: _row(attention.additive_mask, "Where"),
    vocab.LSTM: _row(recurrent.lstm, "LSTM Scan"),
    vocab.GRU: _row(recurrent.gru, "GRU Scan"),
    vocab.RNN: _row(recurrent.rnn, "RNN Scan"),
    vocab.PACK_PADDED: _row(packed.pack, "Transpose", "what the model is given packed"),
    vocab.PAD_PACKED: _row(packed.pad, "Range Less Where Slice", "other lengths than before"),
    vocab.LSTM_CELL: _row(cells.lstm_cell, _CELL),
    vocab.GRU_CELL: _row(cells.gru_cell, _CELL),
    vocab.RNN_CELL: _row(cells.rnn_cell, "MatMul Add Tanh"),
    # lookups
    vocab.EMBEDDING: _row(lookups.embedding, "Gather"),
    vocab.EMBEDDING_BAG: _row(
        lookups.embedding_bag,
        "Gather ReduceSum ReduceMean ReduceMax MatMul",
        "maxima of bags of several lengths",
    ),
    # arithmetic
    vocab.ADD: _row(activations.add, "Add"),
    vocab.SUB: _row(activations.sub, "Sub"),
    vocab.MUL: _row(activations.mul, "Mul"),
    vocab.DIV: _row(activations.div, "Div"),
    vocab.CAST: _row(activations.cast, "Cast"),
    vocab.GRID_SAMPLE: _row(elementwise.grid_sample, "GridSample", "volumes"),
    # functions of each number
    vocab.EXP: _row(elementwise.of_each("Exp"), "Exp"),
    vocab.EXPM1: _row(elementwise.expm1, "Exp Sub"),
    vocab.EXP2: _row(elementwise.scaled("Exp", before=math.log(2)), "Mul Exp"),
    vocab.LOG2: _row(elementwise.scaled("Log", after=1 / math.log(2)), "Log Mul"),
    vocab.LOG10: _row(elementwise.scaled("Log", after=1 / math.log(10)), "Log Mul"),
    vocab.LOG: _row(elementwise.of_each("Log"), "Log"),
    vocab.LOG1P: _row(elementwise.log1p, "Add Log"),
    vocab.SQRT: _row(elementwise.of_each("Sqrt"), "Sqrt"),
    vocab.RSQRT: _row(elementwise.of_each("Sqrt", "Reciprocal"), "Sqrt Reciprocal"),
    vocab.RECIPROCAL: _row(elementwise.of_each("Reciprocal"), "Reciprocal"),
    vocab.SIN: _row(elementwise.of_each("Sin"), "Sin"),
    vocab.COS: _row(elementwise.of_each("Cos"), "Cos"),
    vocab.TAN: _row(elementwise.of_each("Tan"), "Tan"),
    vocab.ASIN: _row(elementwise.of_each("Asin"), "Asin"),
    vocab.ACOS: _row(elementwise.of_each("Acos"), "Acos"),
    vocab.ATAN: _row(elementwise.of_each("Atan"), "Atan"),
    vocab.SINH: _row(elementwise.of_each("Sinh"), "Sinh"),
    vocab.COSH: _row(elementwise.of_each("Cosh"), "Cosh"),
    vocab.ASINH: _row(elementwise.of_each("Asinh"), "Asinh"),
    vocab.ACOSH: _row(elementwise.of_each("Acosh"), "Acosh"),
    vocab.ATANH: _row(elementwise.of_each("Atanh"), "Atanh"),
    vocab.ERFC: _row(elementwise.erfc, "Erf Sub"),
    vocab.LOGIT: _row(elementwise.logit, "Clip Sub Div Log"),
    vocab.NAN_TO_NUM: _row(elementwise.nan_to_num, "IsNaN IsInf Where"),
    vocab.TRUNC: _row(elementwise.trunc, "Abs Floor Sign Mul"),
    vocab.FRAC: _row(elementwise.frac, "Abs Floor Sign Mul Sub"),
    vocab.HYPOT: _row(elementwise.hypot, "Mul Add Sqrt"),
    vocab.LOGADDEXP: _row(elementwise.logaddexp, "Sub Abs Exp Log Max Add"),
    vocab.FMOD: _row(elementwise.fmod, "Mod"),
    vocab.REMAINDER: _row(elementwise.remainder, "Div Floor Mul Sub Mod"),
    vocab.XLOGY: _row(elementwise.xlogy, "Log Mul Equal Where"),
    vocab.ERF: _row(elementwise.of_each("Erf"), "Erf"),
    vocab.SIGN: _row(elementwise.of_each("Sign"), "Sign"),
    vocab.FLOOR: _row(elementwise.of_each("Floor"), "Floor"),
    vocab.CEIL: _row(elementwise.of_each("Ceil"), "Ceil"),
    vocab.ROUND: _row(elementwise.round, "Round"),
    vocab.ABS: _row(elementwise.of_each("Abs"), "Abs"),
    vocab.NEG: _row(elementwise.of_each("Neg"), "Neg"),
    vocab.POW: _row(elementwise.power, "Pow"),
    vocab.MAXIMUM: _row(elementwise.extreme("Max"), "Max"),
    vocab.MINIMUM: _row(elementwise.extreme("Min"), "Min"),
    vocab.FMAX: _row(elementwise.number_of_two("Max"), "Max IsNaN Where"),
    vocab.FMIN: _row(elementwise.number_of_two("Min"), "Min IsNaN Where"),
    vocab.LERP: _row(elementwise.lerp, "Sub Mul Add"),
    vocab.WHERE: _row(elementwise.where, "Where"),
    vocab.MASKED_FILL: _row(elementwise.masked_fill, "Where"),
    vocab.TRIL: _row(elementwise.triangle(upper=0), "Trilu"),
    vocab.TRIU: _row(elementwise.triangle(upper=1), "Trilu"),
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
    vocab.SELU: _row(activations.selu, "Selu"),
    vocab.CELU: _row(activations.celu, "Celu"),
    vocab.SOFTPLUS: _row(activations.softplus, "Softplus"),
    vocab.SOFTSIGN: _row(activations.softsign, "Softsign"),
    vocab.LOGSIGMOID: _row(activations.logsigmoid, "Neg Softplus"),
    vocab.HARDSHRINK: _row(activations.hardshrink, "Shrink"),
    vocab.SOFTSHRINK: _row(activations.softshrink, "Shrink"),
    vocab.TANHSHRINK: _row(activations.tanhshrink, "Tanh Sub"),
    vocab.THRESHOLD: _row(activations.threshold, "Greater Where"),
    vocab.GLU: _row(activations.glu, "Split Sigmoid Mul"),
    vocab.SOFTMAX: _row(activations.softmax, "Softmax"),
    vocab.LOG_SOFTMAX: _row(activations.log_softmax, "LogSoftmax"),
    # norms
    vocab.BATCH_NORM: _row(norms.batch_norm, "BatchNormalization"),
    vocab.LAYER_NORM: _row(norms.layer_norm, "LayerNormalization"),
    vocab.GROUP_NORM: _row(norms.group_norm, "InstanceNormalization"),
    vocab.INSTANCE_NORM: _row(norms.instance_norm, "InstanceNormalization"),
    vocab.RMS_NORM: _row(norms.rms_norm, "ReduceMean Sqrt Div Mul"),
    vocab.LOCAL_RESPONSE_NORM: _row(norms.local_response_norm, "LRN", "even sizes"),
    vocab.NORMALIZE: _row(norms.normalize, "ReduceL2 ReduceL1 Max Div", "other orders"),
    # pools and reductions
    **dict.fromkeys(vocab.MAX_POOLS, _MAX_POOL),
    **dict.fromkeys(vocab.AVG_POOLS, _AVG_POOL),
    **dict.fromkeys(vocab.LP_POOLS, _row(pools.lp_pool, "LpPool", "odd orders, ceil_mode")),
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
    vocab.PROD: _row(pools.prod, "ReduceProd"),
    vocab.LOGSUMEXP: _row(pools.logsumexp, "ReduceLogSumExp"),
    vocab.MAX_ALONG: _row(pools.extreme_along("Max"), "ReduceMax ArgMax"),
    vocab.MIN_ALONG: _row(pools.extreme_along("Min"), "ReduceMin ArgMin"),
    vocab.AMAX: _row(pools.amax, "ReduceMax"),
    vocab.AMIN: _row(pools.amin, "ReduceMin"),
    vocab.VAR: _row(norms.variance(root=False), "ReduceMean Sub Mul", "sizes that are free"),
    vocab.STD: _row(norms.variance(root=True), "ReduceMean Sub Mul Sqrt", "sizes that are free"),
    vocab.VECTOR_NORM: _row(norms.vector_norm, "ReduceL2 ReduceL1 ReduceMax", "other orders"),
    vocab.CUMSUM: _row(elementwise.cumsum, "CumSum"),
    # order
    vocab.SORT: _row(ordering.sort, "TopK"),
    vocab.SORT_VALUES: _row(ordering.sort_values, "TopK"),
    vocab.ARGSORT: _row(ordering.argsort, "TopK"),
    vocab.KTHVALUE: _row(ordering.kthvalue, "TopK Gather"),
    vocab.TOPK: _row(ordering.topk, "TopK"),
    vocab.TOPK_VALUES: _row(ordering.topk_values, "TopK"),
    vocab.SCATTER: _row(ordering.scatter, "ScatterElements", "numbers"),
    vocab.SCATTER_REDUCE: _row(ordering.scatter_reduce, "ScatterElements", "means"),
    vocab.SCATTER_ADD: _row(ordering.scatter_add, "ScatterElements"),
    vocab.OUTER: _row(ordering.outer, "Unsqueeze Mul"),
    vocab.KRON: _row(shapes.kron, "Unsqueeze Mul Reshape"),
    vocab.TAKE_ALONG_DIM: _row(
        ordering.take_along_dim, "Slice GatherElements", "places that are the same along a dim"
    ),
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
    vocab.TENSOR_SPLIT: _row(shapes.tensor_split, "Split"),
    vocab.INDEX_SELECT: _row(shapes.index_select, "Gather"),
    vocab.GATHER: _row(shapes.gather, "Slice GatherElements"),
    vocab.DIAGONAL: _row(shapes.diagonal, "Einsum", "other diagonals"),
    vocab.WINDOWS: _row(shapes.windows, "Gather Transpose", "sizes that are free"),
    vocab.UNFOLD: _row(shapes.no_columns, "", "all of it"),
    vocab.FOLD: _row(shapes.no_columns, "", "all of it"),
    vocab.GETITEM: _row(indexing.getitem, "Slice Gather Unsqueeze", "masks, several tensors"),
    vocab.MESHGRID: _row(shapes.meshgrid, "Reshape Expand"),
    vocab.EXPAND: _row(shapes.expand, "Expand"),
    vocab.REPEAT: _row(shapes.repeat, "Tile"),
    vocab.REPEAT_INTERLEAVE: _row(shapes.repeat_interleave, "Tile Reshape"),
    vocab.ROLL: _row(shapes.roll, "Slice Concat"),
    vocab.FLIP: _row(shapes.flip, "Slice"),
    vocab.PIXEL_SHUFFLE: _row(shapes.pixel_shuffle, "DepthToSpace"),
    vocab.PIXEL_UNSHUFFLE: _row(shapes.pixel_unshuffle, "SpaceToDepth Transpose"),
    vocab.CHANNEL_SHUFFLE: _row(shapes.channel_shuffle, "Reshape Transpose"),
    vocab.PAD: _row(pads.pad, "Pad"),
    vocab.CONTIGUOUS: _row(shapes.same),
    vocab.CLONE: _row(shapes.same),
    vocab.AFTER: _row(shapes.same),
    vocab.DROPOUT: _row(shapes.same),
    vocab.DETACH: _row(shapes.same),
    # joins
    vocab.CAT: _row(joins.cat, "Concat"),
    vocab.STACK: _row(joins.stack, "Unsqueeze Concat"),
    vocab.SETITEM: _row(
        indexing.setitem, "Range ScatterElements Where", "several numbers where a mask holds"
    ),
    # sizes and numbers
    vocab.SIZE: _row(numbers.size, "Shape"),
    vocab.DIM: _row(numbers.dim),
    vocab.DTYPE: _row(numbers.dtype),
    vocab.DEVICE: _row(numbers.device),
    vocab.GUARD: _row(numbers.guard),
    **{op: OnnxEmitter(write) for op, write in numbers.SCALARS.items()},
    # quantize and dequantize
    vocab.QUANT_STUB: _row(shapes.same),
    vocab.DEQUANT_STUB: _row(shapes.same),
    vocab.QUANTIZE: _row(quantization.quantize, "QuantizeLinear Clip"),
    vocab.DYNAMIC_QPARAMS: _row(quantization.dynamic_qparams, "DynamicQuantizeLinear"),
    vocab.DEQUANTIZE: _row(quantization.dequantize, "DequantizeLinear"),
    vocab.UNPACK: _row(quantization.unpack),
    vocab.WIDEN: _row(quantization.widen, "Cast"),
    # training
    vocab.PART: _row(parameters.computed(semantics.part)),
    vocab.ARRANGE: _row(parameters.computed(semantics.arrange)),
}
"""What has no row is not written: losses, linear algebra, and what ONNX has no operator for."""


def row_of(op: OpDef) -> OnnxEmitter:
    """The row of ``op``; CannotWrite if it has none."""
    if op in EMITTERS:
        return EMITTERS[op]
    if op.kind is vocab.Kind.PARAMETER:
        raise CannotWrite(f"{op.name}, which belongs to training", "Convert the model first.")
    raise CannotWrite(
        f"{op.name}, which can't be written to ONNX", "Compute it outside of the model."
    )
