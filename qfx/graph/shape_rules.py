"""What operations of the vocabulary yield, by arithmetic of the shapes of their operands.

On the meta device PyTorch runs many functions as decompositions in Python: the first imports its
compiler, which takes seconds, and each takes milliseconds. A rule tells the same at once, of the
plain case alone: float operands of one dtype, none of them empty, whose shapes fit. Of anything
else it tells nothing; the operation is then run, and raises what there is to raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, TypeAlias, TypeVar

import torch

from qfx import vocab
from qfx.graph.fold_rules import fold_bias, fold_weight, scale_channels, unscale_channels
from qfx.graph.meta import TensorInfo, Value
from qfx.graph.recurrent_rules import cell_rule, sequence_rule
from qfx.graph.shape_arithmetic import NUMBERS, Told, broadcast, dim_of, fit, have, joined, like
from qfx.graph.window_rules import (
    adaptive_pool_rule,
    conv_rule,
    conv_transpose_rule,
    interpolated,
    pool_rule,
)
from qfx.vocab import OpDef

_CODES = (torch.uint8, torch.int8, torch.int16, torch.int32)

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
    """Of what is computed for each element."""
    is_plain = all(type(value) in NUMBERS for value in attributes.values())
    return input if fit(input) and is_plain else None


def _gelu(input: TensorInfo, approximate: object) -> Told:
    return input if fit(input) and approximate in ("none", "tanh") else None


def _clamp(input: TensorInfo, min: object = None, max: object = None) -> Told:
    ends = [end for end in (min, max) if end is not None]
    codes = isinstance(input, TensorInfo) and input.dtype in _CODES and input.numel
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


def _batch_norm(
    input: TensorInfo,
    running_mean: TensorInfo,
    running_var: TensorInfo,
    weight: TensorInfo | None,
    bias: TensorInfo | None,
    eps: float,
) -> Told:
    operands = (running_mean, running_var, weight, bias)
    if not fit(input, *operands) or len(input.shape) < 2:
        return None
    return input if have(input.shape[1:2], *operands) else None


def _layer_norm(
    input: TensorInfo,
    weight: TensorInfo | None,
    bias: TensorInfo | None,
    normalized_shape: Sequence[int],
    eps: float,
) -> Told:
    last = tuple(normalized_shape)
    if not fit(input, weight, bias) or not last or input.shape[-len(last) :] != last:
        return None
    return input if have(last, weight, bias) else None


def _group_norm(
    input: TensorInfo,
    weight: TensorInfo | None,
    bias: TensorInfo | None,
    num_groups: int,
    eps: float,
) -> Told:
    if not fit(input, weight, bias) or len(input.shape) < 2 or type(num_groups) is not int:
        return None
    if num_groups < 1 or input.shape[1] % num_groups or input.numel <= num_groups:
        return None
    return input if have(input.shape[1:2], weight, bias) else None


def _instance_norm(
    input: TensorInfo, weight: TensorInfo | None, bias: TensorInfo | None, eps: float
) -> Told:
    if not fit(input, weight, bias) or prod(input.shape[2:]) < 2:
        return None
    return input if have(input.shape[1:2], weight, bias) else None


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


def _quantize(
    input: TensorInfo,
    scale: object,
    zero_point: object,
    dtype: torch.dtype,
    axis: object,
    group_size: object,
    **bounds: object,
) -> Told:
    if not fit(input) or group_size is not None or not _step(input, axis, scale, zero_point):
        return None
    return TensorInfo(input.shape, dtype)


def _dequantize(
    input: TensorInfo,
    scale: object,
    zero_point: object,
    dtype: torch.dtype,
    axis: object,
    group_size: object,
) -> Told:
    codes = isinstance(input, TensorInfo) and input.dtype in _CODES and input.numel
    if not codes or group_size is not None or not _step(input, axis, scale, zero_point):
        return None
    return TensorInfo(input.shape, dtype)


def _dynamic_qparams(input: TensorInfo, **_: object) -> Value:
    numbers = TensorInfo((), torch.float32), TensorInfo((), torch.int32)
    return numbers if fit(input) else None


def _step(input: TensorInfo, axis: object, *numbers: object) -> bool:
    """Whether there is one of each number, or one for each place along ``axis``."""
    at = dim_of(axis, len(input.shape))
    if at is None:
        plain = (type(n) in NUMBERS or (isinstance(n, TensorInfo) and not n.shape) for n in numbers)
        return axis is None and all(plain)
    return all(isinstance(n, TensorInfo) and n.shape == (input.shape[at],) for n in numbers)


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
    vocab.BATCH_NORM: _batch_norm,
    vocab.LAYER_NORM: _layer_norm,
    vocab.GROUP_NORM: _group_norm,
    vocab.INSTANCE_NORM: _instance_norm,
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
    vocab.QUANTIZE: _quantize,
    vocab.DYNAMIC_QPARAMS: _dynamic_qparams,
    vocab.DEQUANTIZE: _dequantize,
    vocab.FOLD_WEIGHT: fold_weight,
    vocab.FOLD_BIAS: fold_bias,
    vocab.SCALE_CHANNELS: scale_channels,
    vocab.UNSCALE_CHANNELS: unscale_channels,
}
"""The operations that PyTorch has no meta kernel in C++ for, and what tells what they yield."""
