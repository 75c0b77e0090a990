"""keep-float: what kernels were found to compute wrongly is not given to them again.

    linear(dequantize(codes), ...)  is lowered as it is: dequantize, linear, quantize

It runs before ``lower``, first of all, where there is anything to put back: conversion compares
each call of the lowered graph with what it stands for, and lowers anew without those that differ; a
file names them, so that a loaded model has none of them either.
"""

from __future__ import annotations

from torch import fx

from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.quant.annotation import Annotation, Decision, annotate
from qfx.quant.reasons import REASONS
from qfx.verification.put_back import KERNEL_FAILED


class KeepFloat(Pass):
    """Decide that operations stay float, each for a reason.

    Attributes:
        operations: the name of each in the reference form, and why; those that the graph lacks are
            passed over.
    """

    name = "keep-float"
    requires = Level.REFERENCE
    operations: tuple[tuple[str, str], ...] = ()

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        rw, reasons = ctx.rewriter, dict(self.operations)
        _, remedy = REASONS[KERNEL_FAILED]
        for node in graph.nodes:
            if node.name in reasons:
                annotate(
                    node, Annotation(Decision(False, KERNEL_FAILED, reasons[node.name], remedy))
                )
                with rw.named(KERNEL_FAILED):
                    rw.update(node)  # it reads the same, and is said to have changed
