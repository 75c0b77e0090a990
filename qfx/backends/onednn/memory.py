"""Who owns memory in a lowered graph for x86, so that it may be written to.

A value is an operation's own if it lies in memory that the operation allocated and that nothing
else looks into.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.backends.onednn import calls, kernels
from qfx.backends.onednn import transposed_convs as transpose
from qfx.backends.onednn.arguments import LinearAdd
from qfx.backends.onednn.dynamic import quantize_dynamic
from qfx.vocab import Kind, OpDef

_ops = torch.ops.onednn

ACCUMULATOR = LinearAdd._fields.index("other")
"""Where the binary kernels take the residual, those of convolutions too."""

COPIES: Mapping[Any, Callable[[Tensor], Tensor]] = {
    calls.conv2d_add: kernels.clone_channels_last,
    calls.pointwise_add: kernels.clone_channels_last,
    calls.linear_add: kernels.clone_contiguous,
}
"""What copies a residual for each of the "sum" kernels, which add to it in place."""

QUANTIZING = frozenset((kernels.quantize, quantize_dynamic))
"""What makes codes of floats."""

_FRESH = frozenset(
    (
        *(_ops.qconv2d_pointwise.default, calls.conv2d),
        *(calls.conv2d_add, calls.pointwise, calls.pointwise_add),
        *(calls.linear, calls.linear_add, transpose.weave_groups),
        torch.clamp,
    )
)
"""Kernels whose result is a tensor of its own, in the layout that "sum" wants."""

COPYING = frozenset(
    (
        *_FRESH,
        _ops.qconv1d_pointwise.default,
        *(calls.conv1d, calls.conv3d),
        kernels.dequantize,
        kernels.max_pool2d,
        *COPIES.values(),
        vocab.CAT,
        vocab.STACK,
    )
)
"""What allocates its result, which does not look into what was read."""


_ALLOCATING = frozenset((Kind.MATMUL, Kind.ARITHMETIC, Kind.ACTIVATION, Kind.NORM))


def is_fresh(node: fx.Node) -> bool:
    """Whether ``node`` yields a tensor of its own, in the layout that "sum" wants."""
    if node.target is kernels.dequantize:
        node = node.all_input_nodes[0]  # in the layout of its integers
    return node.target in _FRESH


def _rearranges(value: fx.Node) -> bool:
    return isinstance(value.target, OpDef) and value.target.rearranges


def is_own(value: fx.Node, reader: fx.Node) -> bool:
    """Whether ``reader`` alone sees the memory of ``value``."""
    while list(value.users) == [reader] and _rearranges(value):
        value, reader = value.all_input_nodes[0], value
    allocates = isinstance(value.target, OpDef) and value.target.kind in _ALLOCATING
    return list(value.users) == [reader] and (allocates or value.target in COPYING)
