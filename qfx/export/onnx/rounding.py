"""Rounding for engines, beyond that of the model: which results, to which codes.

In the integer form it is what layers yield before post-ops that are computed in float. In the full
integer form it is what an engine can compute from codes to codes, too: concatenations, products,
sums, sigmoids, averages, and what they read. A result that the model quantizes for one of its
readers is read through these codes by all; others get 8 bits for the range that they were seen in,
a sigmoid that from 0 to 1, a concatenation no more than that of its parts.

Attention in integers multiplies int8 queries, keys and values with a zero point of 0, which is what
OpenVINO 2026.4 fuses (with uint8 around 128 it multiplies floats), and weights in uint8, from 0 to
the largest that was seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from qfx import vocab
from qfx.export.onnx import quantization
from qfx.export.onnx.forms import (
    OnnxForm,
    common,
    layer_range,
    multiplies_codes,
    rounded_to,
    span,
)
from qfx.export.onnx.seen import ANY_CONV, JOINS, Range, SeenRanges
from qfx.export.onnx.values import Dequantized, Operand
from qfx.quant.qparams import QParams, choose_numbers
from qfx.quant.reference_form import qparams_of
from qfx.semantics.post import Post
from qfx.vocab import is_op

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer

_BYTES = (torch.uint8, torch.int8)


def codes_after(w: Writer, node: fx.Node) -> QParams | None:
    """The codes that the result of a node is rounded to before anything reads it."""
    found = rounded_to(node)
    if found is not None or w.form is not OnnxForm.FULL or not _layer_for_joins(node):
        return found
    within = w.seen.results.get(node.name)
    return _own_codes(node) or (None if within is None else _codes_for(within))


def layer_result(w: Writer, node: fx.Node, made: Any, post: Post, to: QParams | None) -> Any:
    """The result of a layer between codes, itself rounded before its post-ops.

    Args:
        w: where it is written.
        node: the layer.
        made: its result, before its post-ops.
        post: those that are written, with what they read as it was written.
        to: the codes that the result of these is rounded to.
    """
    if not w.form.rounds_layers or not is_op(node, *ANY_CONV) or (not post and to is not None):
        return made
    if not multiplies_codes(node):
        return made
    named: Post = node.kwargs.get("post", ())[: len(post)]  # type: ignore[assignment, index]
    found = layer_range(named, to, w.seen.before_post.get(node.name))
    if found is None:
        return made
    w.tell(made, w.results)
    return rounded(w, made, _codes_for(found))


def fixed(w: Writer, input: Operand, made: ir.Value, within: Range) -> ir.Value:
    """What was made of codes and lies within a range, rounded in the full integer form."""
    if not stays_in_codes(w, input):
        return made
    w.tell(made, w.results)
    return rounded(w, made, _codes_for(within))


def stays_in_codes(w: Writer, input: Operand) -> bool:
    """Whether what is made of a tensor is to be computed from its codes, to codes."""
    return w.form is OnnxForm.FULL and _known_codes(w, input) is not None


def result(w: Writer, node: fx.Node, made: Any, operands: Sequence[Operand]) -> Any:
    """What a node yields, rounded where engines need it for integers.

    In every form that is a convolution whose result the model rounds behind what selects of it;
    in the full integer form more.

    Args:
        w: where it is written.
        node: what was written.
        made: its result.
        operands: the tensors that it reads.
    """
    if not w.is_value(made) or id(made) in w.coded:
        return made
    if all(is_op(user, vocab.QUANTIZE) for user in node.users):
        return made
    if is_op(node, *ANY_CONV):
        to = codes_after(w, node) if multiplies_codes(node) else None
    else:
        to = _codes_of_join(w, node, operands) if w.form is OnnxForm.FULL else None
    return made if to is None or to.dtype not in _BYTES else rounded(w, made, to)


def factor(w: Writer, position: int, operand: Operand, *, weighs: bool = False) -> Operand:
    """What a product of activations multiplies, through codes where the form has such.

    Args:
        w: where the product is being written.
        position: of its range among the factors that were seen of the product.
        operand: what is multiplied.
        weighs: whether these are the weights of attention, between 0 and 1.
    """
    assert w.node is not None
    ranges = w.seen.factors.get(w.node.name)
    if ranges is None or not w.is_value(operand) or _known_codes(w, operand) is not None:
        return operand
    low, high = ranges[position]
    largest = min(high, 1.0) if weighs else max(-low, high)
    if not 0 < largest < math.inf:
        return operand
    if weighs:
        codes = QParams(largest / 255, 0, torch.uint8, 0, 255)
    else:
        codes = QParams(largest / 127, 0, torch.int8, -128, 127)
    return rounded(w, operand, codes)


def rounded(w: Writer, value: ir.Value, qparams: QParams) -> ir.Value:
    """A tensor through codes; who quantizes it to the same reads these."""
    scale, zero = float(qparams.scale), int(qparams.zero_point)
    codes = quantization.quantize(
        w,
        value,
        scale,
        zero,
        dtype=qparams.dtype,
        quant_min=qparams.quant_min,
        quant_max=qparams.quant_max,
        axis=None,
        group_size=None,
    )
    numbers = w.scalar(scale, torch.float32), w.scalar(zero, qparams.dtype)
    made = w.op("DequantizeLinear", codes, *numbers, like=value)
    w.coded[id(made)] = (codes, qparams)
    w.bounds[id(made)] = qparams
    return made


def _codes_for(range: Range) -> QParams:
    return QParams(*choose_numbers(*range, 0, 255), torch.uint8, 0, 255)


# -- where and to what -----------------------------------------------------------------------------
def _layer_for_joins(node: fx.Node) -> bool:
    """Whether a node is a layer on codes, of which something is made that engines join."""
    if not is_op(node, *ANY_CONV) or not multiplies_codes(node):
        return False
    return any(is_op(user, *JOINS, *vocab.MAX_POOLS) for user in node.users)


def _known_codes(w: Writer, operand: Operand) -> QParams | None:
    """The codes that a tensor is made of, where their numbers are known."""
    if isinstance(operand, Dequantized) or id(operand) in w.coded:
        return w.bounds.get(id(operand))
    return None


def _own_codes(node: fx.Node) -> QParams | None:
    """The codes to which the model quantizes a result for one of its readers."""
    module = node.graph.owning_module
    assert module is not None
    for user in node.users:
        found = qparams_of(user, module) if is_op(user, vocab.QUANTIZE) else None
        if isinstance(found, QParams) and found.axis is None and found.dtype in _BYTES:
            return found
    return None


def _codes_of_join(w: Writer, node: fx.Node, operands: Sequence[Operand]) -> QParams | None:
    """The codes of what an engine makes of codes; a maximum is one of those that it is of."""
    parts = [_known_codes(w, operand) for operand in operands]
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    if is_op(node, *vocab.MAX_POOLS):
        return known[0]
    if not is_op(node, *JOINS):
        return None
    own = _own_codes(node)
    if own is not None:
        return own
    within = _range_of_join(node, known, w.seen)
    return None if within is None else _codes_for(within)


def _range_of_join(node: fx.Node, parts: Sequence[QParams], seen: SeenRanges) -> Range | None:
    assert isinstance(node.target, vocab.OpDef)
    if node.target.bounds is not None:
        return node.target.bounds
    within = seen.results.get(node.name)
    if not is_op(node, vocab.CAT):
        return within
    lows, highs = zip(*map(span, parts), strict=True)
    return common((min(lows), max(highs)), within)
