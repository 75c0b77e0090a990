"""Layers that work on the channels of each place of an image: written as layers on rows.

    (N, H, W, C) -> (N, H * W, C) -> norm, quantize, linear, GELU, quantize, linear -> (N, H, W, C)

OpenVINO (2026.4.1) adds zero points, biases and activations to what a linear layer computes only if
that has three dims or fewer, and has a kernel for layer norms of these alone; of more, each takes a
pass over memory of its own. Files keep the model's shapes: this is for engines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from qfx import vocab
from qfx.export.onnx.forms import multiplies_codes
from qfx.export.onnx.sizes import Shapes
from qfx.export.onnx.values import Dequantized, Dim, Info, Operand
from qfx.quant.reference_form import Measured, qparams_of
from qfx.vocab import Kind, bound, is_op

if TYPE_CHECKING:
    from qfx.export.onnx.writer import Writer

_DIMS = 3


class OnRows:
    """What nodes read of each other, where some work on rows.

    Args:
        w: where the graph is written.
        shapes: of every node, as the model has them.
        values: what each node yields: rows, if it is among ``nodes``.
        nodes: those that work on rows.
    """

    def __init__(
        self,
        w: Writer,
        shapes: Shapes,
        values: Mapping[fx.Node, Any],
        nodes: frozenset[fx.Node] = frozenset(),
    ) -> None:
        self._w, self._shapes, self._values, self._nodes = w, shapes, values, nodes
        self._reshaped: dict[fx.Node, Operand] = {}

    def info(self, node: fx.Node) -> Any:
        """What is written of a node has this shape."""
        info = self._shapes.info(node)
        return of_rows(info) if node in self._nodes else info

    def read(self, source: fx.Node, reader: fx.Node) -> Any:
        """What ``reader`` is given of what ``source`` yields."""
        value, info = self._values[source], self._shapes.info(source)
        inside = source in self._nodes
        if inside == (reader in self._nodes) or not isinstance(info, Info) or info.rank <= _DIMS:
            return value
        if not isinstance(value, (Tensor, Dequantized)) and not self._w.is_value(value):
            return value
        if source not in self._reshaped:
            wanted = info if inside else of_rows(info)
            self._reshaped[source] = self._as(value, wanted, source)
        return self._reshaped[source]

    def _as(self, value: Operand, wanted: Info, source: fx.Node) -> Operand:
        w = self._w
        if isinstance(value, Dequantized):
            codes = dataclasses.replace(wanted, dtype=w.info(value.codes).dtype)
            changed = self._as(value.codes, codes, source)
            made: Operand = dataclasses.replace(value, codes=changed, info=wanted, written={})
        else:
            several = sum(isinstance(d, str) for d in wanted.shape) > 1 and wanted.rank > _DIMS
            made = w.reshape(value, wanted, self._sizes(source, wanted) if several else ())
        if id(value) in w.bounds:
            w.bounds[id(made)] = w.bounds[id(value)]
        return made

    def _sizes(self, source: fx.Node, wanted: Info) -> list[Any]:
        """The sizes of what came before the rows, which are those of what comes behind."""
        before = source
        while before in self._nodes:
            before = before.all_input_nodes[0]
        given, dims = self._values[before], range(wanted.rank - 1)
        return [*(self._w.size(given, dim) for dim in dims), wanted.shape[-1]]


def of_rows(info: Info) -> Info:
    """``(N, ..., C)`` as ``(N, all between, C)``."""
    first, *between, last = info.shape
    fixed = all(isinstance(d, int) for d in between)
    count = prod(info.example[1:-1])
    rows: Dim = count if fixed else "|".join(map(str, between))
    return Info((first, rows, last), (info.example[0], count, info.example[-1]), info.dtype)


def on_rows(graph: fx.Graph, shapes: Shapes) -> frozenset[fx.Node]:
    """The nodes that work on the last dim of more than three, or on each value, around a layer."""
    together: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        if _by_rows(node, shapes):
            group = together.get(node.all_input_nodes[0], [])
            group.append(node)
            together[node] = group
    layers = [node for node in together if is_op(node, vocab.LINEAR)]
    return frozenset(node for layer in layers for node in together[layer])


def _by_rows(node: fx.Node, shapes: Shapes) -> bool:
    """Whether a node makes each row of its result of a row of the first tensor that it reads."""
    if not isinstance(node.target, vocab.OpDef) or not node.all_input_nodes:
        return False
    info = shapes.info(node)
    if not isinstance(info, Info) or info.rank <= _DIMS or 0 in info.example:
        return False
    if node.args[0] is not node.all_input_nodes[0] or not _adds_rows(node, info, shapes):
        return False
    if is_op(node, vocab.LINEAR):
        parts = any(is_op(user, vocab.CHUNK, vocab.SPLIT) for user in node.users)
        return multiplies_codes(node) and not parts  # parts: as layers of their own
    if is_op(node, vocab.LAYER_NORM, vocab.RMS_NORM):
        return len(bound(node)["normalized_shape"]) == 1
    if is_op(node, vocab.QUANTIZE, vocab.DEQUANTIZE):
        module = node.graph.owning_module
        assert module is not None
        qparams = qparams_of(node, module)
        return not isinstance(qparams, Measured) and qparams.axis is None
    alone = len(node.all_input_nodes) == 1
    return alone and node.target.kind is Kind.ACTIVATION and node.target.elementwise


def _adds_rows(node: fx.Node, info: Info, shapes: Shapes) -> bool:
    """Whether what post-ops add to a result is of its shape, or of one for each place."""
    summands: list[fx.Node] = []
    fx.map_arg(node.kwargs.get("post", ()), summands.append)
    added = map(shapes.info, summands)
    return all(isinstance(a, Info) and (a.rank == 1 or a.shape == info.shape) for a in added)
