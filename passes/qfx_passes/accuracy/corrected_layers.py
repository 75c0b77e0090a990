"""Which layers have a bias that can take the mean error of their weights."""

from __future__ import annotations

from torch import fx

from qfx import vocab
from qfx.quant.annotation import annotation
from qfx.quant.spec import QuantSpec
from qfx.vocab import bound, is_op
from qfx_passes.operands import is_constant

_CORRECTED = (*vocab.CONVOLUTIONS, vocab.LINEAR)


def corrected_spec(node: fx.Node) -> QuantSpec | None:
    """The weight spec of an operation whose bias can be corrected."""
    if not is_op(node, *_CORRECTED) or not is_constant(bound(node)["bias"]):
        return None
    note = annotation(node)
    return note.weight if note is not None and note.decision.quantized else None
