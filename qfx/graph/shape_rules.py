"""What operations of the vocabulary yield, by arithmetic of the shapes of their operands.

On the meta device PyTorch runs many functions as decompositions in Python: the first imports its
compiler, which takes seconds, and each takes milliseconds. A rule tells the same at once, of the
plain case alone: float operands of one dtype, none of them empty, whose shapes fit. Of anything
else it tells nothing; the operation is then run, and raises what there is to raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import torch

from qfx import vocab
from qfx.graph.fold_rules import fold_bias, fold_weight, scale_channels, unscale_channels
from qfx.graph.meta import TensorInfo, Value
from qfx.graph.norm_rules import batch_normed, group_normed, instance_normed, layer_normed
from qfx.graph.quantization_rules import dequantized, measured, quantized
from qfx.graph.recurrent_rules import cell_rule, sequence_rule
from qfx.graph.shape_arithmetic import (
    CODES,
    NUMBERS,
    Told,
    broadcast,
    dim_of,
    fit,
    have,
    joined,
    like,
)
from qfx.graph.window_rules import (
    adaptive_pool_rule,
    conv_rule,
    conv_transpose_rule,
    interpolated,
    pool_rule,
)
from qfx.vocab import OpDef

_F = TypeVar("_F", bound=Callable[..., Any])
_Rule: TypeAlias = Callable[..., Value]


_YIELDS = "_qfx_yields"


def yields(rule: _Rule) -> Callable[[_F], _F]:
    """Say of a function what it yields, by arithmetic of shapes: a decorator, kept with it.

    Args:
        rule: takes the arguments with a :class:`TensorInfo` for each tensor; None: it can't tell.
    """

    def mark(function: _F) -> _F:
        setattr(function, _YIELDS, rule)
        return function

    return mark


def told(op: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Value:
    """What ``op`` yields; None where no rule tells.

    Args:
        op: an operation, or a function that is said what it :func:`yields`.
        args: its positional arguments, with a :class:`TensorInfo` for each tensor.
        kwargs: likewise, by name.
    """
    if not isinstance(op, OpDef):
        of_function = _clamp if op is torch.clamp else getattr(op, _YIELDS, None)
        return None if of_function is None else of_function(*args, **kwargs)
    rule = RULES.get(op)
    arguments = vocab.bound_plainly(op, tuple(args), kwargs) if rule is not None else None
    if rule is None or arguments is None:
        return None
    post = arguments.pop("post", ())
    value = rule(**arguments)
    return after(value, post) if isinstance(value, TensorInfo) else value


def after(value: Told, post: Sequence[Sequence[Any]]) -> Told:
    """What a chain of post-ops makes of ``value``."""
    for name, *operands in post:
        value = _after_post(value, name, operands)
    return value


def _after_post(value: Told, name: str, operands: Sequence[Any]) -> Told:
    if name == "add":
        return joined(value, *operands)
    plain = all(isinstance(operand, (int, float, str)) for operand in operands)
    return value if plain else None


def _same(input: TensorInfo, **attributes: object) -> Told:
    """The input, where something is computed for each element."""
    is_plain = all(type(value) in NUMBERS for value in attributes.values())
    return input if fit(input) and is_plain else None


def _gelu(input: TensorInfo, approximate: object) -> Told:
    return input if fit(input) and approximate in ("none", "tanh") else None


def _clamp(input: TensorInfo, min: object = None, max: object = None) -> Told:
    ends = [end for end in (min, max) if end is not None]
    codes = isinstance(input, TensorInfo) and input.dtype in CODES and input.numel
    kinds = (int,) if codes else NUMBERS
    return input if (codes or fit(input)) and ends and all(type(e) in kinds for e in ends) else None


def _softmax(input: TensorInfo, dim: object, dtype: object) -> Told:
    if not fit(input) or dtype is not None or dim_of(dim, len(input.shape)) is None:
        return None
    return input


def _arithmetic(input: TensorInfo, other: object, **attributes: object) -> Told:
    if attributes.get("rounding_mode") is not None or type(attributes.get("alpha", 1)) is not int:
        return None
    if type(other) in NUMBERS:
        return _same(input)
    return joined(input, other) if isinstance(other, TensorInfo) else None


def _linear(input: TensorInfo, weight: TensorInfo, bias: TensorInfo | None) -> Told:
    if not fit(input, weight, bias) or not input.shape or len(weight.shape) != 2:
        return None
    out, width = weight.shape
    is_right = input.shape[-1] == width and have((out,), bias)
    return like(input, (*input.shape[:-1], out)) if is_right else None


def _matmul(input: TensorInfo, other: TensorInfo) -> Told:
    if not fit(input, other) or min(len(input.shape), len(other.shape)) < 2:
        return None
    batch = broadcast(input.shape[:-2], other.shape[:-2])
    if batch is None or input.shape[-1] != other.shape[-2]:
        return None
    return like(input, (*batch, input.shape[-2], other.shape[-1]))


def _attention_weights(
    query: TensorInfo, key: TensorInfo, attn_mask: TensorInfo | None, scale: object
) -> Told:
    if not fit(query, key, attn_mask) or not _fit_attention(query, key):
        return None
    if scale is not None and type(scale) not in NUMBERS:
        return None
    scores = (*query.shape[:-1], key.shape[-2])
    return like(query, scores if attn_mask is None else broadcast(scores, attn_mask.shape))


def _attention(
    query: TensorInfo,
    key: TensorInfo,
    value: TensorInfo,
    attn_mask: TensorInfo | None,
    scale: object,
    is_causal: object,
    dropout: object,
) -> Told:
    scores = _attention_weights(query, key, None, scale)
    if scores is None or not fit(query, value) or value.shape[:-1] != key.shape[:-1]:
        return None
    if attn_mask is not None:
        is_mask = attn_mask.dtype in (query.dtype, torch.bool) and is_causal is False
        if not is_mask or broadcast(scores.shape, attn_mask.shape) != scores.shape:
            return None
    return like(query, (*query.shape[:-1], value.shape[-1]))


def _fit_attention(query: TensorInfo, key: TensorInfo) -> bool:
    is_batched = len(query.shape) == len(key.shape) >= 3
    same_width = query.shape[-1:] == key.shape[-1:]
    return is_batched and same_width and query.shape[:-2] == key.shape[:-2]


def _reduced(input: TensorInfo, dim: object, keepdim: object) -> Told:
    if not fit(input) or type(keepdim) is not bool:
        return None
    ndim, named = len(input.shape), dim if isinstance(dim, (tuple, list)) else (dim,)
    dims = {dim_of(each, ndim) for each in named}
    if None in dims or not dims or len(dims) != len(named):
        return None
    kept = [1 if i in dims else n for i, n in enumerate(input.shape) if keepdim or i not in dims]
    return like(input, tuple(kept))


def _embedding(input: TensorInfo, weight: TensorInfo, padding_idx: object, **_: object) -> Told:
    if not isinstance(input, TensorInfo) or input.dtype not in (torch.int64, torch.int32):
        return None
    if not fit(weight) or len(weight.shape) != 2 or padding_idx is not None:
        return None
    return like(weight, (*input.shape, weight.shape[1]))


def _cat(tensors: Sequence[TensorInfo], dim: object) -> Told:
    if not isinstance(tensors, (tuple, list)) or not fit(*tensors) or None in tensors:
        return None
    shapes = [info.shape for info in tensors]
    along = dim_of(dim, len(shapes[0]))
    if along is None or {len(shape) for shape in shapes} != {len(shapes[0])}:
        return None
    total = sum(shape[along] for shape in shapes)
    joined = {(*shape[:along], total, *shape[along + 1 :]) for shape in shapes}
    return like(tensors[0], joined.pop()) if len(joined) == 1 else None


RULES: Mapping[OpDef, _Rule] = {
    **{op: conv_rule(op.dims) for op in vocab.CONVOLUTIONS if op.dims},
    **{op: conv_transpose_rule(op.dims) for op in vocab.TRANSPOSED if op.dims},
    vocab.LINEAR: _linear,
    vocab.MATMUL: _matmul,
    vocab.ATTENTION_WEIGHTS: _attention_weights,
    vocab.ATTENTION: _attention,
    vocab.EMBEDDING: _embedding,
    **dict.fromkeys((vocab.ADD, vocab.SUB, vocab.MUL, vocab.DIV), _arithmetic),
    **{op: _same for op in vocab.ops() if op.elementwise},
    vocab.CLAMP: _clamp,
    vocab.GELU: _gelu,
    **dict.fromkeys((vocab.SOFTMAX, vocab.LOG_SOFTMAX), _softmax),
    vocab.BATCH_NORM: batch_normed,
    vocab.LAYER_NORM: layer_normed,
    vocab.GROUP_NORM: group_normed,
    vocab.INSTANCE_NORM: instance_normed,
    **{op: pool_rule(op.dims) for op in (*vocab.MAX_POOLS, *vocab.AVG_POOLS) if op.dims},
    **{op: adaptive_pool_rule(op.dims) for op in vocab.ADAPTIVE_POOLS if op.dims},
    vocab.INTERPOLATE: interpolated,
    **dict.fromkeys((vocab.MEAN, vocab.SUM, vocab.AMAX, vocab.AMIN), _reduced),
    vocab.CAT: _cat,
    vocab.LSTM: sequence_rule(gates=4, states=2),
    vocab.GRU: sequence_rule(gates=3, states=1),
    vocab.RNN: sequence_rule(gates=1, states=1),
    vocab.LSTM_CELL: cell_rule(gates=4, states=2),
    vocab.GRU_CELL: cell_rule(gates=3, states=1),
    vocab.RNN_CELL: cell_rule(gates=1, states=1),
    vocab.QUANTIZE: quantized,
    vocab.DYNAMIC_QPARAMS: measured,
    vocab.DEQUANTIZE: dequantized,
    vocab.FOLD_WEIGHT: fold_weight,
    vocab.FOLD_BIAS: fold_bias,
    vocab.SCALE_CHANNELS: scale_channels,
    vocab.UNSCALE_CHANNELS: unscale_channels,
}
"""The operations that PyTorch has no meta kernel in C++ for, and what tells what they yield."""
