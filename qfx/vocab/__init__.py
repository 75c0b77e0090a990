"""The closed vocabulary: every canonical operation, and every spelling that maps to it.

A canonical operation (:class:`OpDef`) is itself the ``target`` of a ``call_function`` node, so
patterns, passes and backend tables compare targets by identity: ``node.target is vocab.CONV2D``.
Its Python signature fixes the canonical form: tensor operands by position, attributes by keyword,
attributes at their default left out.

Spellings are data, three columns per row: module types, functions, and Tensor methods. A trailing
underscore or ``inplace=True`` is the same operation. Modules are read through the signature: an
attribute of the module with a parameter's name supplies it.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import Enum
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from qfx.semantics import (
    activations,
    affine,
    folding,
    layers,
    markers,
    numbers,
    packing,
    pools,
    queries,
    recurrent,
    shapes,
)


class Kind(Enum):
    """What an operation does to values; decides how quantization may treat it."""

    MATMUL = "matmul"  # multiply-accumulates against weights or another tensor
    ARITHMETIC = "arithmetic"  # elementwise of one or two operands, new range
    ACTIVATION = "activation"  # elementwise of one operand
    LOOKUP = "lookup"  # picks rows of a weight by integers, and perhaps pools them
    NORM = "norm"
    POOL = "pool"  # output values lie within the range of the input
    SHAPE = "shape"  # output values are input values, moved, copied or dropped
    JOIN = "join"  # several tensors become one, values unchanged
    REDUCE = "reduce"
    QUANT = "quant"  # quantize and dequantize
    STUB = "stub"
    PARAMETER = "parameter"  # what training does to parameters, and undoes
    QUERY = "query"  # yields shapes and numbers, not tensors


@dataclass(frozen=True, eq=False)
class OpDef:
    """A canonical operation; calling it runs it.

    Attributes:
        name: as printed in the IR.
        function: the computation (:mod:`qfx.semantics` or torch itself).
        kind: see :class:`Kind`.
        modules, functions, methods: the spellings that mean this operation.
        dims: how many dims its input has behind batch and channels; None if it takes any number.
        layer: whether it multiplies by a weight of output channels, and adds a bias, so that
            what scales or shifts its output channels can be folded into it.
        transposed: whether its weight has the input channels first.
        commutative: whether its first two operands may be swapped (ADD while it has no ``alpha``).
        picks: whether its results are values of its input, beside those whose kind says so.
        rearranges: whether it yields every element of its input once.
        elementwise: whether it computes each element of one tensor by itself.
    """

    name: str
    function: Callable[..., Any]
    kind: Kind
    modules: tuple[type[nn.Module], ...] = ()
    functions: tuple[Callable[..., Any], ...] = ()
    methods: tuple[str, ...] = ()
    _: KW_ONLY
    dims: int | None = None
    layer: bool = False
    transposed: bool = False
    commutative: bool = False
    picks: bool = False
    rearranges: bool = False
    elementwise: bool = False
    signature: inspect.Signature = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "signature", inspect.signature(self.function))
        object.__setattr__(self, "__name__", self.name.upper())
        object.__setattr__(self, "__qualname__", self.name.upper())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __copy__(self) -> OpDef:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> OpDef:
        return self

    def __reduce__(self) -> tuple[Callable[[str], OpDef], tuple[str]]:
        return lookup, (self.name,)

    @property
    def channel_axis(self) -> int | None:
        """The channels of input and output, from the end: inputs may come without a batch."""
        return None if self.dims is None else -1 - self.dims

    @property
    def moves(self) -> bool:
        """Whether its results are values of its inputs: moved, joined, copied or picked."""
        return self.picks or self.kind in (Kind.SHAPE, Kind.JOIN)

    @property
    def takes_post(self) -> bool:
        """Whether the operation can carry fused post-ops."""
        return "post" in self.signature.parameters


_BY_NAME: dict[str, OpDef] = {}


def _op(
    function: Callable[..., Any],
    kind: Kind,
    modules: tuple[type[nn.Module], ...] = (),
    functions: tuple[Callable[..., Any], ...] = (),
    methods: tuple[str, ...] = (),
    *,
    name: str = "",
    **traits: Any,
) -> OpDef:
    op = OpDef(name or function.__name__, function, kind, modules, functions, methods, **traits)
    _BY_NAME[op.name] = op
    return op


def lookup(name: str) -> OpDef:
    """The operation called ``name``; KeyError if the vocabulary has none."""
    return _BY_NAME[name]


def has(name: object) -> bool:
    """Whether an operation is called ``name``."""
    return isinstance(name, str) and name in _BY_NAME


def ops() -> Iterator[OpDef]:
    """Every operation, in the order of the table."""
    return iter(_BY_NAME.values())


def is_op(node: fx.Node, *which: OpDef) -> bool:
    """Whether ``node`` is a canonical operation (one of ``which``, when given)."""
    if node.op != "call_function" or not isinstance(node.target, OpDef):
        return False
    return not which or node.target in which


def bound(node: fx.Node) -> dict[str, Any]:
    """All arguments of a canonical node by parameter name, defaults filled in."""
    assert isinstance(node.target, OpDef)
    plain = bound_plainly(node.target, node.args, node.kwargs)
    if plain is not None:
        return plain
    arguments = node.target.signature.bind(*node.args, **node.kwargs)
    arguments.apply_defaults()
    return dict(arguments.arguments)


def bound_plainly(
    op: OpDef, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What ``signature.bind`` finds, ten times as fast; None unless all is as it should be."""
    defaults, positional = _parameters(op)
    given = dict(zip(defaults, args, strict=False))
    if len(args) > positional or not given.keys().isdisjoint(kwargs):
        return None
    arguments = {**defaults, **given, **kwargs}
    missing = any(value is inspect.Parameter.empty for value in arguments.values())
    return None if missing or len(arguments) > len(defaults) else arguments


@cache
def _parameters(op: OpDef) -> tuple[dict[str, Any], int]:
    """Defaults by name, and how many may be given by position: -1 if ``*args`` or the like is."""
    parameters = op.signature.parameters
    kinds = [p.kind for p in parameters.values()]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    positional = kinds.count(named[0]) if set(kinds) <= set(named) else -1
    return {name: p.default for name, p in parameters.items()}, positional


# -- multiply-accumulate -------------------------------------------------------------------------
CONV1D = _op(
    layers.conv1d, Kind.MATMUL, (nn.Conv1d,), (F.conv1d,), name="conv1d", dims=1, layer=True
)
CONV2D = _op(
    layers.conv2d, Kind.MATMUL, (nn.Conv2d,), (F.conv2d,), name="conv2d", dims=2, layer=True
)
CONV3D = _op(
    layers.conv3d, Kind.MATMUL, (nn.Conv3d,), (F.conv3d,), name="conv3d", dims=3, layer=True
)
CONV_TRANSPOSE1D = _op(
    layers.conv_transpose1d,
    Kind.MATMUL,
    (nn.ConvTranspose1d,),
    (F.conv_transpose1d,),
    name="conv_transpose1d",
    dims=1,
    layer=True,
    transposed=True,
)
CONV_TRANSPOSE2D = _op(
    layers.conv_transpose2d,
    Kind.MATMUL,
    (nn.ConvTranspose2d,),
    (F.conv_transpose2d,),
    name="conv_transpose2d",
    dims=2,
    layer=True,
    transposed=True,
)
CONV_TRANSPOSE3D = _op(
    layers.conv_transpose3d,
    Kind.MATMUL,
    (nn.ConvTranspose3d,),
    (F.conv_transpose3d,),
    name="conv_transpose3d",
    dims=3,
    layer=True,
    transposed=True,
)
LINEAR = _op(layers.linear, Kind.MATMUL, (nn.Linear,), (F.linear,), dims=0, layer=True)
MATMUL = _op(
    layers.matmul,
    Kind.MATMUL,
    (),
    (torch.matmul, torch.bmm, torch.mm, operator.matmul),
    ("matmul", "bmm", "mm"),
)
ATTENTION_WEIGHTS = _op(layers.attention_weights, Kind.MATMUL)
ADDITIVE_MASK = _op(layers.additive_mask, Kind.ACTIVATION)
ATTENTION = _op(layers.attention, Kind.MATMUL, (), (F.scaled_dot_product_attention,))
LSTM = _op(recurrent.lstm, Kind.MATMUL, (nn.LSTM,))
GRU = _op(recurrent.gru, Kind.MATMUL, (nn.GRU,))
RNN = _op(recurrent.rnn, Kind.MATMUL, (nn.RNN,))
LSTM_CELL = _op(recurrent.lstm_cell, Kind.MATMUL, (nn.LSTMCell,))
GRU_CELL = _op(recurrent.gru_cell, Kind.MATMUL, (nn.GRUCell,))
RNN_CELL = _op(recurrent.rnn_cell, Kind.MATMUL, (nn.RNNCell,))

# -- lookup --------------------------------------------------------------------------------------
EMBEDDING = _op(layers.embedding, Kind.LOOKUP, (nn.Embedding,), (F.embedding, torch.embedding))
EMBEDDING_BAG = _op(layers.embedding_bag, Kind.LOOKUP, (nn.EmbeddingBag,), (F.embedding_bag,))

# -- arithmetic ----------------------------------------------------------------------------------
ADD = _op(
    activations.add,
    Kind.ARITHMETIC,
    (),
    (torch.add, operator.add, operator.iadd),
    ("add", "add_"),
    commutative=True,
)
SUB = _op(
    activations.sub,
    Kind.ARITHMETIC,
    (),
    (torch.sub, torch.subtract, operator.sub, operator.isub),
    ("sub", "sub_", "subtract", "subtract_"),
)
MUL = _op(
    activations.mul,
    Kind.ARITHMETIC,
    (),
    (torch.mul, torch.multiply, operator.mul, operator.imul),
    ("mul", "mul_", "multiply"),
    commutative=True,
)
DIV = _op(
    activations.div,
    Kind.ARITHMETIC,
    (),
    (
        *(torch.div, torch.true_divide, torch.divide, operator.truediv, operator.itruediv),
        *(torch.floor_divide, operator.floordiv, operator.ifloordiv),
    ),
    ("div", "div_", "divide", "floor_divide"),
)

CAST = _op(activations.cast, Kind.ARITHMETIC)

# -- activations ---------------------------------------------------------------------------------
RELU = _op(
    activations.relu,
    Kind.ACTIVATION,
    (nn.ReLU,),
    (torch.relu, torch.relu_, F.relu, F.relu_),
    ("relu", "relu_"),
    elementwise=True,
)
CLAMP = _op(
    activations.clamp,
    Kind.ACTIVATION,
    (nn.ReLU6, nn.Hardtanh),
    (
        *(torch.clamp, torch.clip, torch.clamp_min, torch.clamp_max),
        *(F.relu6, F.hardtanh, F.hardtanh_),
    ),
    ("clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_max"),
    elementwise=True,
)
LEAKY_RELU = _op(
    activations.leaky_relu,
    Kind.ACTIVATION,
    (nn.LeakyReLU,),
    (F.leaky_relu, F.leaky_relu_),
    elementwise=True,
)
ELU = _op(activations.elu, Kind.ACTIVATION, (nn.ELU,), (F.elu, F.elu_), elementwise=True)
HARDSWISH = _op(
    activations.hardswish, Kind.ACTIVATION, (nn.Hardswish,), (F.hardswish,), elementwise=True
)
SILU = _op(activations.silu, Kind.ACTIVATION, (nn.SiLU,), (F.silu,), elementwise=True)
GELU = _op(activations.gelu, Kind.ACTIVATION, (nn.GELU,), (F.gelu,), elementwise=True)
PRELU = _op(activations.prelu, Kind.ACTIVATION, (nn.PReLU,), (F.prelu,), ("prelu",))
SIGMOID = _op(
    activations.sigmoid,
    Kind.ACTIVATION,
    (nn.Sigmoid,),
    (torch.sigmoid, torch.sigmoid_, F.sigmoid, torch.special.expit),
    ("sigmoid", "sigmoid_"),
    elementwise=True,
)
HARDSIGMOID = _op(
    activations.hardsigmoid, Kind.ACTIVATION, (nn.Hardsigmoid,), (F.hardsigmoid,), elementwise=True
)
TANH = _op(
    activations.tanh,
    Kind.ACTIVATION,
    (nn.Tanh,),
    (torch.tanh, torch.tanh_, F.tanh),
    ("tanh", "tanh_"),
    elementwise=True,
)
MISH = _op(activations.mish, Kind.ACTIVATION, (nn.Mish,), (F.mish,), elementwise=True)
SOFTMAX = _op(
    activations.softmax,
    Kind.ACTIVATION,
    (nn.Softmax,),
    (torch.softmax, F.softmax, torch.special.softmax),
    ("softmax",),
)
LOG_SOFTMAX = _op(
    activations.log_softmax,
    Kind.ACTIVATION,
    (nn.LogSoftmax,),
    (torch.log_softmax, F.log_softmax, torch.special.log_softmax),
    ("log_softmax",),
)

# -- normalization (inference) -------------------------------------------------------------------
BATCH_NORM = _op(
    layers.batch_norm, Kind.NORM, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), (F.batch_norm,)
)
LAYER_NORM = _op(layers.layer_norm, Kind.NORM, (nn.LayerNorm,), (F.layer_norm,))
GROUP_NORM = _op(layers.group_norm, Kind.NORM, (nn.GroupNorm,), (F.group_norm,))
INSTANCE_NORM = _op(
    layers.instance_norm,
    Kind.NORM,
    (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    (F.instance_norm,),
)

# -- pools and reductions ------------------------------------------------------------------------
MAX_POOL1D = _op(
    pools.max_pool1d,
    Kind.POOL,
    (nn.MaxPool1d,),
    (F.max_pool1d, torch.max_pool1d),
    name="max_pool1d",
    dims=1,
    picks=True,
)
MAX_POOL2D = _op(
    pools.max_pool2d,
    Kind.POOL,
    (nn.MaxPool2d,),
    (F.max_pool2d, torch.max_pool2d),
    name="max_pool2d",
    dims=2,
    picks=True,
)
MAX_POOL3D = _op(
    pools.max_pool3d,
    Kind.POOL,
    (nn.MaxPool3d,),
    (F.max_pool3d, torch.max_pool3d),
    name="max_pool3d",
    dims=3,
    picks=True,
)
AVG_POOL1D = _op(
    pools.avg_pool1d, Kind.POOL, (nn.AvgPool1d,), (F.avg_pool1d,), name="avg_pool1d", dims=1
)
AVG_POOL2D = _op(
    pools.avg_pool2d, Kind.POOL, (nn.AvgPool2d,), (F.avg_pool2d,), name="avg_pool2d", dims=2
)
AVG_POOL3D = _op(
    pools.avg_pool3d, Kind.POOL, (nn.AvgPool3d,), (F.avg_pool3d,), name="avg_pool3d", dims=3
)
ADAPTIVE_AVG_POOL1D = _op(
    pools.adaptive_avg_pool1d,
    Kind.POOL,
    (nn.AdaptiveAvgPool1d,),
    (F.adaptive_avg_pool1d,),
    name="adaptive_avg_pool1d",
    dims=1,
)
ADAPTIVE_AVG_POOL2D = _op(
    pools.adaptive_avg_pool2d,
    Kind.POOL,
    (nn.AdaptiveAvgPool2d,),
    (F.adaptive_avg_pool2d,),
    name="adaptive_avg_pool2d",
    dims=2,
)
ADAPTIVE_AVG_POOL3D = _op(
    pools.adaptive_avg_pool3d,
    Kind.POOL,
    (nn.AdaptiveAvgPool3d,),
    (F.adaptive_avg_pool3d,),
    name="adaptive_avg_pool3d",
    dims=3,
)
ADAPTIVE_MAX_POOL1D = _op(
    pools.adaptive_max_pool1d,
    Kind.POOL,
    (nn.AdaptiveMaxPool1d,),
    (F.adaptive_max_pool1d,),
    name="adaptive_max_pool1d",
    dims=1,
    picks=True,
)
ADAPTIVE_MAX_POOL2D = _op(
    pools.adaptive_max_pool2d,
    Kind.POOL,
    (nn.AdaptiveMaxPool2d,),
    (F.adaptive_max_pool2d,),
    name="adaptive_max_pool2d",
    dims=2,
    picks=True,
)
ADAPTIVE_MAX_POOL3D = _op(
    pools.adaptive_max_pool3d,
    Kind.POOL,
    (nn.AdaptiveMaxPool3d,),
    (F.adaptive_max_pool3d,),
    name="adaptive_max_pool3d",
    dims=3,
    picks=True,
)
INTERPOLATE = _op(
    pools.interpolate,
    Kind.POOL,
    (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
    (F.interpolate, F.upsample),
)
MEAN = _op(pools.mean, Kind.REDUCE, (), (torch.mean,), ("mean",))
SUM = _op(pools.sum, Kind.REDUCE, (), (torch.sum,), ("sum",))
AMAX = _op(pools.amax, Kind.REDUCE, (), (torch.amax,), ("amax",))
AMIN = _op(pools.amin, Kind.REDUCE, (), (torch.amin,), ("amin",))

# -- shape ---------------------------------------------------------------------------------------
RESHAPE = _op(
    shapes.reshape, Kind.SHAPE, (), (torch.reshape,), ("reshape", "view"), rearranges=True
)
FLATTEN = _op(
    shapes.flatten, Kind.SHAPE, (nn.Flatten,), (torch.flatten,), ("flatten",), rearranges=True
)
UNFLATTEN = _op(
    shapes.unflatten,
    Kind.SHAPE,
    (nn.Unflatten,),
    (torch.unflatten,),
    ("unflatten",),
    rearranges=True,
)
PERMUTE = _op(shapes.permute, Kind.SHAPE, (), (torch.permute,), ("permute",), rearranges=True)
TRANSPOSE = _op(
    shapes.transpose,
    Kind.SHAPE,
    (),
    (torch.transpose, torch.swapaxes, torch.swapdims, torch.t),
    ("transpose", "swapaxes", "swapdims", "t"),
    rearranges=True,
)
SQUEEZE = _op(
    shapes.squeeze, Kind.SHAPE, (), (torch.squeeze,), ("squeeze", "squeeze_"), rearranges=True
)
UNSQUEEZE = _op(
    shapes.unsqueeze,
    Kind.SHAPE,
    (),
    (torch.unsqueeze,),
    ("unsqueeze", "unsqueeze_"),
    rearranges=True,
)
CHUNK = _op(
    shapes.chunk,
    Kind.SHAPE,
    (),
    (torch.chunk, torch.unsafe_chunk),
    ("chunk", "unsafe_chunk"),
)
SPLIT = _op(shapes.split, Kind.SHAPE, (), (torch.split,), ("split",))
UNBIND = _op(shapes.unbind, Kind.SHAPE, (), (torch.unbind,), ("unbind",))
SELECT = _op(shapes.select, Kind.SHAPE, (), (torch.select,), ("select",))
NARROW = _op(shapes.narrow, Kind.SHAPE, (), (torch.narrow,), ("narrow",))
GETITEM = _op(shapes.getitem, Kind.SHAPE, (), (operator.getitem,))
EXPAND = _op(shapes.expand, Kind.SHAPE, (), (torch.broadcast_to,), ("expand", "broadcast_to"))
REPEAT = _op(shapes.repeat, Kind.SHAPE, (), (), ("repeat",))
REPEAT_INTERLEAVE = _op(
    shapes.repeat_interleave, Kind.SHAPE, (), (torch.repeat_interleave,), ("repeat_interleave",)
)
ROLL = _op(shapes.roll, Kind.SHAPE, (), (torch.roll,), ("roll",))
FLIP = _op(shapes.flip, Kind.SHAPE, (), (torch.flip,), ("flip",))
PIXEL_SHUFFLE = _op(shapes.pixel_shuffle, Kind.SHAPE, (nn.PixelShuffle,), (F.pixel_shuffle,))
PIXEL_UNSHUFFLE = _op(
    shapes.pixel_unshuffle, Kind.SHAPE, (nn.PixelUnshuffle,), (F.pixel_unshuffle,)
)
CHANNEL_SHUFFLE = _op(
    shapes.channel_shuffle, Kind.SHAPE, (nn.ChannelShuffle,), (F.channel_shuffle,)
)
PAD = _op(
    shapes.pad,
    Kind.SHAPE,
    (
        nn.ZeroPad2d,
        nn.ConstantPad1d,
        nn.ConstantPad2d,
        nn.ConstantPad3d,
        nn.ReflectionPad1d,
        nn.ReflectionPad2d,
        nn.ReplicationPad1d,
        nn.ReplicationPad2d,
    ),
    (F.pad,),
)
CONTIGUOUS = _op(shapes.contiguous, Kind.SHAPE, (), (), ("contiguous",), rearranges=True)
CLONE = _op(shapes.clone, Kind.SHAPE, (), (torch.clone,), ("clone",), rearranges=True)

# -- join ----------------------------------------------------------------------------------------
CAT = _op(shapes.cat, Kind.JOIN, (), (torch.cat, torch.concat, torch.concatenate))
STACK = _op(shapes.stack, Kind.JOIN, (), (torch.stack,))

# -- mutation made functional ----------------------------------------------------------------------
SETITEM = _op(shapes.setitem, Kind.JOIN)

# -- mutation left as it was written ---------------------------------------------------------------
AFTER = _op(shapes.after, Kind.SHAPE)

# -- queries (no tensor result) ------------------------------------------------------------------
SIZE = _op(queries.size, Kind.QUERY, (), (), ("size",))
DIM = _op(queries.dim, Kind.QUERY, (), (), ("dim", "ndimension"))
DTYPE = _op(queries.dtype, Kind.QUERY)
DEVICE = _op(queries.device, Kind.QUERY)
GUARD = _op(queries.guard, Kind.QUERY)
fx.node.has_side_effect(GUARD)  # nothing reads a guard, yet it must stay

# -- arithmetic of sizes and other plain numbers ---------------------------------------------------
SCALARS: dict[Callable[..., Any], OpDef] = {
    function: _op(numbers.with_signature(function), Kind.QUERY, name=f"scalar_{name}")
    for name, function in numbers.functions()
}
"""The operation for each function of numbers."""

# -- stubs, quantize and dequantize --------------------------------------------------------------
QUANT_STUB = _op(markers.quant_stub, Kind.STUB)
DEQUANT_STUB = _op(markers.dequant_stub, Kind.STUB)
QUANTIZE = _op(affine.quantize, Kind.QUANT)
DYNAMIC_QPARAMS = _op(affine.dynamic_qparams, Kind.QUANT)
DEQUANTIZE = _op(affine.dequantize, Kind.QUANT)
UNPACK = _op(packing.unpack, Kind.QUANT)
WIDEN = _op(packing.widen, Kind.QUANT)

# -- training --------------------------------------------------------------------------------------
DROPOUT = _op(markers.dropout, Kind.SHAPE)
FOLD_WEIGHT = _op(folding.fold_weight, Kind.PARAMETER)
FOLD_BIAS = _op(folding.fold_bias, Kind.PARAMETER)
PART = _op(shapes.part, Kind.PARAMETER)
SCALE_CHANNELS = _op(folding.scale_channels, Kind.PARAMETER)
UNSCALE_CHANNELS = _op(folding.unscale_channels, Kind.PARAMETER)


# -- groups of operations ------------------------------------------------------------------------
SEQUENCES = (LSTM, GRU, RNN)
LAYERS = tuple(op for op in ops() if op.layer)
"""Convolutions, transposed ones too, and linear layers."""

CONVOLUTIONS = tuple(op for op in LAYERS if op.dims and not op.transposed)
TRANSPOSED = tuple(op for op in LAYERS if op.transposed)
MAX_POOLS = (MAX_POOL1D, MAX_POOL2D, MAX_POOL3D)
AVG_POOLS = (AVG_POOL1D, AVG_POOL2D, AVG_POOL3D)
ADAPTIVE_AVG_POOLS = (ADAPTIVE_AVG_POOL1D, ADAPTIVE_AVG_POOL2D, ADAPTIVE_AVG_POOL3D)
ADAPTIVE_MAX_POOLS = (ADAPTIVE_MAX_POOL1D, ADAPTIVE_MAX_POOL2D, ADAPTIVE_MAX_POOL3D)
ADAPTIVE_POOLS = (*ADAPTIVE_AVG_POOLS, *ADAPTIVE_MAX_POOLS)
"""By rising dims."""

CELLS = (LSTM_CELL, GRU_CELL, RNN_CELL)
RECURRENT = (*SEQUENCES, *CELLS)
"""Layers with a hidden state: several weights, and activations that are measured inside."""
