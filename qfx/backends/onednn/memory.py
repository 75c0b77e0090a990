"""Who owns memory in a lowered graph for x86, so that it may be written to.

* The "sum" kernels add to a residual in place: what is not theirs to overwrite is cloned first.
* Quantizing shifts floats before it takes their low bytes. Where nothing reads them afterwards, it
  does so in place, which halves the memory that it goes through.

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
from qfx.backends.onednn.dynamic import quantize_dynamic
from qfx.graph import meta
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import Kind, OpDef

_ops = torch.ops.onednn


def protect_accumulators(graph: fx.Graph, rw: Rewriter) -> None:
    """Clone every residual that a "sum" kernel may not overwrite.

    It may where the residual is a kernel's fresh result (channels_last, as "sum" wants it) that
    nobody reads later and no view looks into.
    """
    for node in list(graph.nodes):
        if node.target not in _COPIES or "add" in node.args:
            continue
        residual = node.args[_ACCUMULATOR]
        assert isinstance(residual, fx.Node)
        if _may_overwrite(residual, node):
            continue
        value = meta.value_of(residual)
        with rw.at(node):
            copy = rw.call(_COPIES[node.target], residual, origins=(node,), value=value)
        node.update_arg(_ACCUMULATOR, copy)


_COPIES: Mapping[Any, Callable[[Tensor], Tensor]] = {
    calls.conv2d_add: kernels.clone_channels_last,
    calls.pointwise_add: kernels.clone_channels_last,
    calls.linear_add: kernels.clone_contiguous,
}

_ACCUMULATOR = 6
"""Where the binary kernels take the residual."""

_FRESH = frozenset(
    (
        *(_ops.qconv2d_pointwise.default, calls.conv2d),
        *(calls.conv2d_add, calls.pointwise, calls.pointwise_add),
        *(calls.linear, calls.linear_add, transpose.weave_groups),
        torch.clamp,
    )
)
"""Kernels whose result is a tensor of its own, in the layout that "sum" wants."""

_COPYING = frozenset(
    (
        *_FRESH,
        _ops.qconv1d_pointwise.default,
        _ops.qconv3d_pointwise.default,
        *(calls.conv1d, calls.conv3d),
        kernels.dequantize,
        kernels.max_pool2d,
        *_COPIES.values(),
        vocab.CAT,
        vocab.STACK,
    )
)
"""What allocates its result, which does not look into what was read."""


def _is_fresh(node: fx.Node) -> bool:
    if node.target is kernels.dequantize:
        node = node.all_input_nodes[0]  # in the layout of its integers
    return node.target in _FRESH


def _may_overwrite(residual: fx.Node, by: fx.Node) -> bool:
    if not _is_fresh(residual) or sum(v is residual for v in by.args) > 1:
        return False
    return all(u is by or (u < by and u.target in _COPYING) for u in residual.users)


def overwrite_operands(graph: fx.Graph) -> None:
    """Let quantizing use the memory of what it alone reads."""
    for node in graph.nodes:
        if node.target in QUANTIZING and _is_own(node.args[0], node):
            node.update_kwarg("overwrite", True)


QUANTIZING = frozenset((kernels.quantize, quantize_dynamic))
"""What makes codes of floats."""

_VIEWS = frozenset(
    (
        *(vocab.RESHAPE, vocab.FLATTEN, vocab.UNFLATTEN, vocab.PERMUTE, vocab.TRANSPOSE),
        *(vocab.SQUEEZE, vocab.UNSQUEEZE, vocab.CONTIGUOUS, vocab.CLONE),
    )
)
"""Operations that yield every element of their input once."""

_ALLOCATING = frozenset((Kind.MATMUL, Kind.ARITHMETIC, Kind.ACTIVATION, Kind.NORM))


def _is_own(value: fx.Node, reader: fx.Node) -> bool:
    """Whether ``reader`` alone sees the memory of ``value``."""
    while list(value.users) == [reader] and value.target in _VIEWS:
        value, reader = value.all_input_nodes[0], value
    allocates = isinstance(value.target, OpDef) and value.target.kind in _ALLOCATING
    return list(value.users) == [reader] and (allocates or value.target in _COPYING)
