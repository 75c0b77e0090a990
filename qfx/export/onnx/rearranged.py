"""Chains of operations that only rearrange codes are written without rounding in between.

    q(p(dq(q(r(dq(c))))))  =  q(p(r(dq(c))))        r, p rearrange; one scale and zero point

since what ``r`` yields lies on the grid of the codes already. Engines look for such chains by what
stands next to each other: OpenVINO makes one operation of reshape, transpose, reshape, a shuffle of
channels, which it moves in the layout that convolutions yield.
"""

from __future__ import annotations

from torch import fx

from qfx import vocab
from qfx.quant.qparams import QParams
from qfx.quant.reference_form import Measured, qparams_of
from qfx.vocab import OpDef, is_op


def is_within(node: fx.Node) -> bool:
    """Whether a DEQUANTIZE stands between operations that rearrange codes of the same qparams."""
    maker, own = node.args[0], _of_tensor(node)
    if own is None or not isinstance(maker, fx.Node) or not is_op(maker, vocab.QUANTIZE):
        return False
    before = maker.args[0]
    if not isinstance(before, fx.Node) or not _rearranges(before):
        return False
    source = before.args[0]
    if not isinstance(source, fx.Node) or not is_op(source, vocab.DEQUANTIZE):
        return False
    after = [reader for user in node.users for reader in user.users]
    return (
        bool(after)
        and all(map(_rearranges, node.users))
        and all(is_op(reader, vocab.QUANTIZE) for reader in after)
        and all(_of_tensor(each) == own for each in (source, *after))
    )


def _rearranges(node: fx.Node) -> bool:
    return isinstance(node.target, OpDef) and node.target.rearranges


def _of_tensor(node: fx.Node) -> QParams | None:
    """The qparams of all of a tensor, as numbers; None if they are others."""
    module = node.graph.owning_module
    assert module is not None
    qparams = qparams_of(node, module)
    return None if isinstance(qparams, Measured) or qparams.axis is not None else qparams
