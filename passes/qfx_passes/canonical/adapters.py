"""What canonical arguments need beyond a change of names: the table of who sees to it.

An adapter changes the arguments in place, or returns a Mismatch, which leaves the call as it was
written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from qfx import vocab
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import OpDef
from qfx_passes.canonical import layer_arguments as layers
from qfx_passes.canonical import recurrent
from qfx_passes.canonical import tensor_arguments as tensors
from qfx_passes.canonical.call_site import Arguments, CallSite

Adapter: TypeAlias = "Callable[[OpDef, Arguments, CallSite], Mismatch | None]"

ADAPTERS: dict[OpDef, Adapter] = {
    **dict.fromkeys(vocab.CONVOLUTIONS, layers.conv),
    **dict.fromkeys(vocab.TRANSPOSED, layers.conv_transpose),
    **dict.fromkeys(vocab.MAX_POOLS, layers.pool),
    **dict.fromkeys(vocab.AVG_POOLS, layers.pool),
    **dict.fromkeys(vocab.LP_POOLS, layers.pool),
    **dict.fromkeys(vocab.ADAPTIVE_POOLS, layers.adaptive_pool),
    **dict.fromkeys((vocab.SOFTMAX, vocab.LOG_SOFTMAX), tensors.softmax),
    **dict.fromkeys((vocab.MEAN, vocab.SUM, vocab.AMAX, vocab.AMIN), tensors.reduce),
    **dict.fromkeys(
        (vocab.VECTOR_NORM, vocab.MATRIX_NORM, vocab.LOGSUMEXP), tensors.as_tuple("dim")
    ),
    vocab.PROD: tensors.reduce,
    **dict.fromkeys(vocab.MAX_UNPOOLS, layers.unpool),
    vocab.AFFINE_GRID: tensors.shape("size"),
    vocab.SCATTER: tensors.scatter,
    vocab.SORT_VALUES: tensors.sort_rows,
    **dict.fromkeys((vocab.ADD, vocab.SUB, vocab.MUL), tensors.arithmetic),
    **dict.fromkeys((vocab.CAT, vocab.STACK), tensors.join),
    **dict.fromkeys((vocab.EMBEDDING, vocab.EMBEDDING_BAG), layers.lookup),
    **dict.fromkeys(vocab.RECURRENT, recurrent.adapt),
    vocab.DIV: tensors.divide,
    vocab.CLAMP: tensors.clamp,
    vocab.LINEAR: layers.linear,
    vocab.BATCH_NORM: layers.batch_norm,
    **dict.fromkeys(vocab.TRAILING_NORMS, layers.layer_norm),
    vocab.GROUP_NORM: layers.group_norm,
    vocab.INSTANCE_NORM: layers.instance_norm,
    vocab.RESHAPE: tensors.spread_shape("shape"),
    vocab.EXPAND: tensors.spread_shape("size"),
    vocab.REPEAT: tensors.spread_shape("repeats"),
    vocab.PERMUTE: tensors.shape("dims"),
    vocab.FLIP: tensors.shape("dims"),
    vocab.UNFLATTEN: tensors.shape("sizes"),
    vocab.TRANSPOSE: tensors.transpose,
    vocab.SQUEEZE: tensors.as_tuple("dim"),
    vocab.SPLIT: tensors.as_tuple("split_size_or_sections"),
    vocab.TENSOR_SPLIT: tensors.tensor_split,
    vocab.WHERE: tensors.where,
    **dict.fromkeys(vocab.EXTREMES, tensors.two_tensors),
    vocab.ROLL: tensors.roll,
    vocab.REPEAT_INTERLEAVE: tensors.repeat_interleave,
    vocab.PAD: tensors.pad,
}
"""Arithmetic on the arguments of an operation, in place; a Mismatch leaves the call as written."""
