"""leave-single-rows: what multiplies one row rounds it itself.

    quantize_dynamic(x)  ->  quantize_dynamic(x, row=its length)
    linear(codes, ...)   ->  linear(codes, ..., rows=a second packing of the weight)

Where only linear layers read the codes, and the input turns out to be one row when the model runs,
that row is measured and handed on as it is (:mod:`qfx.backends.onednn.single_rows`).
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from qfx.backends.onednn import calls, single_rows
from qfx.backends.onednn.arguments import Linear
from qfx.backends.onednn.as_convolutions import is_convolution
from qfx.backends.onednn.dynamic import quantize_dynamic
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.rewrite.rewriter import Rewriter

_ALL_CODES = (0, 255)
"""The kernel that rounds for itself has all."""


class LeaveSingleRows(Pass):
    """Mark the measuring whose readers take a single row as it is, and let those pack for it."""

    name = "leave-single-rows"
    requires = Level.LOWERED

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        rw, packed = ctx.rewriter, dict[object, str]()
        measured = [node for node in graph.nodes if node.target is quantize_dynamic]
        if not measured or not single_rows.pays():
            return
        for node in measured:
            readers = _readers(node) if node.args[1:3] == _ALL_CODES else []
            if readers and all(_may_take_rows(rw, reader) for reader in readers):
                rw.update(node, kwargs={**node.kwargs, "row": _width(readers[0])})
                for reader in readers:
                    _pack(rw, reader, packed)


def _readers(measured: fx.Node) -> list[fx.Node]:
    """The linear layers that read what was measured; none, if anything else does."""
    found = dict[fx.Node, None]()
    for part in measured.users:
        at = part.args[1]
        for reader in part.users:
            read = [i for i, operand in enumerate(reader.args) if operand is part]
            if (
                part.target is not operator.getitem
                or reader.target is not calls.linear
                or read != [at]
            ):
                return []
            found[reader] = None
    return list(found)


def _width(layer: fx.Node) -> int:
    """How many inputs ``layer`` has."""
    info = meta.tensor_info(Linear(*layer.args).x)
    assert info is not None
    return info.shape[-1]


def _may_take_rows(rw: Rewriter, layer: fx.Node) -> bool:
    """Whether ``layer`` hands out float, and runs as a linear layer."""
    given = Linear(*layer.args)
    return given.dtype is torch.float32 and not is_convolution(rw.tensor(given.weight))


def _pack(rw: Rewriter, layer: fx.Node, known: dict[object, str]) -> None:
    """Let ``layer`` hold a second packing, as others of one weight and bias do."""
    given = Linear(*layer.args)
    key = tuple(part and part.target for part in (given.weight, given.weight_scale, given.bias))
    if key not in known:
        known[key] = rw.attach("packed.rows", single_rows.PackedForRows())
    with rw.at(layer):
        rw.update(layer, kwargs={"rows": rw.attribute(known[key])})
