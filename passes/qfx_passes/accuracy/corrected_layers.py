"""Which layers have a bias that can take a mean error, and what it was before."""

from __future__ import annotations

from torch import Tensor, fx

from qfx import vocab
from qfx.framework.pass_context import PassContext
from qfx.quant.annotation import annotation
from qfx.quant.spec import QuantSpec
from qfx.vocab import bound, is_op
from qfx_passes.operands import is_constant


def corrected_spec(node: fx.Node) -> QuantSpec | None:
    """The weight spec of an operation whose bias can be corrected."""
    if not is_op(node, *vocab.OUTPUTS_FIRST) or not is_constant(bound(node)["bias"]):
        return None
    note = annotation(node)
    return note.weight if note is not None and note.decision.quantized else None


class Originals:
    """The biases that layers had before they were given others.

    Attributes:
        biases: by layer; None where it had none.
        silent: layers of which some output read zeros only.
    """

    def __init__(self) -> None:
        self.silent: set[fx.Node] = set()
        self.biases: dict[fx.Node, Tensor | None] = {}

    def arguments(self) -> dict[fx.Node, dict[str, Tensor | None]]:
        """What the model computes layers with, where the graph has something else by now."""
        return {node: {"bias": bias} for node, bias in self.biases.items()}


def originals(ctx: PassContext) -> Originals:
    """The originals of the pipeline that is running."""
    if not ctx.has(Originals):
        ctx.put(Originals())
    return ctx.get(Originals)
