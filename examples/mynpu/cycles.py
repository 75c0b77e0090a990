"""count-cycles: what each call costs on the accelerator, as a column of the report.

An array of 16 x 16 multipliers does 256 multiply-accumulates a cycle; what moves or adds takes a
cycle for each 64 bytes of its result.
"""

from __future__ import annotations

from math import ceil

from torch import fx

import qfx
from examples.mynpu import kernels
from qfx.graph.meta import tensor_info
from qfx.quant.annotation import kernel_of


class CountCycles(qfx.Pass):
    """Record how many cycles each kernel takes."""

    name = "count-cycles"
    requires = qfx.Level.LOWERED
    macs_per_cycle: int = 256
    bytes_per_cycle: int = 64

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        """Record ``cycles`` of what runs on the accelerator."""
        for node in graph.nodes:
            kernel = kernel_of(node)
            if kernel is not None:
                ctx.record(node, "cycles", self._cycles(node, kernel.macs))

    def _cycles(self, node: fx.Node, macs: int) -> int:
        if node.target in (kernels.conv2d, kernels.linear):
            return ceil(macs / self.macs_per_cycle)
        info = tensor_info(node)
        return 0 if info is None else ceil(info.numel / self.bytes_per_cycle)
