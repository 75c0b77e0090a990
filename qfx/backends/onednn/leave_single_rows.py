"""leave-single-rows: what one row is rounded for rounds it itself.

    quantize_dynamic(x)  ->  quantize_dynamic(x, single=True)

Where only linear layers read the codes, and the input turns out to be one row when the model runs,
that row is measured and handed on as it is (:mod:`qfx.backends.onednn.single_rows`).
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from qfx.backends.onednn import calls, single_rows
from qfx.backends.onednn.arguments import Linear
from qfx.backends.onednn.dynamic import quantize_dynamic
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext

_ALL_CODES = (0, 255)
"""The kernel that rounds for itself has all."""


class LeaveSingleRows(Pass):
    """Mark the measuring whose readers take a single row as it is."""

    name = "leave-single-rows"
    requires = Level.LOWERED

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        for node in graph.nodes:
            if node.target is quantize_dynamic and _only_multiplied(node) and single_rows.pays():
                ctx.rewriter.update(node, kwargs={**node.kwargs, "single": True})


def _only_multiplied(measured: fx.Node) -> bool:
    parts = list(measured.users)
    picked = all(part.target is operator.getitem for part in parts)
    return picked and measured.args[1:3] == _ALL_CODES and all(map(_is_multiplied, parts))


def _is_multiplied(part: fx.Node) -> bool:
    """Whether linear layers that hand out floats are all that reads a part of what was measured."""
    at = part.args[1]
    return all(
        reader.target is calls.linear
        and [i for i, read in enumerate(reader.args) if read is part] == [at]
        and Linear(*reader.args).dtype is torch.float32
        for reader in part.users
    )
