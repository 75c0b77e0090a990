"""Rounding for engines, beyond that of the model: which results, to which codes.

In the integer form it is what layers yield before post-ops that are computed in float. In the full
integer form it is what an engine can compute from codes to codes, too: concatenations, products,
sums, sigmoids, averages, and what they read. A result that the model quantizes for one of its
readers is read through these codes by all; others get 8 bits for the range that they were seen in,
a sigmoid that from 0 to 1, a concatenation no more than that of its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from qfx import vocab
from qfx.export.onnx import quantization
from qfx.export.onnx.forms import (
    Form,
    common,
    layer_range,
    multiplies_codes,
    post_ops,
    rounded_to,
    span,
)
from qfx.export.onnx.seen import JOINS, LAYERS, Range, Seen
from qfx.export.onnx.values import Dequantized, Operand
from qfx.quant.qparams import QParams, choose_numbers
from qfx.quant.reference_form import qparams_of
from qfx.vocab import is_op

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer

_BYTES = (torch.uint8, torch.int8)


def layer_result(w: Writer, node: fx.Node, made: Any, seen: Seen) -> Any:
    """The result of a layer between codes, itself rounded before its post-ops.

    Args:
        w: where it is written.
        node: the layer.
        made: its result, before its post-ops.
        seen: what it was seen to yield.
    """
    if w.form is Form.EXACT or not is_op(node, *LAYERS):
        return made
    post = node.kwargs.get("post", ())
    if not post_ops(node, post) and rounded_to(node) is not None:  # type: ignore[arg-type]
        return made
    found = layer_range(node, post, seen) if multiplies_codes(node) else None  # type: ignore[arg-type]
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
    return w.form is Form.FULL and _known_codes(w, input) is not None


def result(w: Writer, node: fx.Node, made: Any, operands: Sequence[Operand], seen: Seen) -> Any:
    """What a node yields, rounded in the full integer form where engines need it for integers.

    Args:
        w: where it is written.
        node: what was written.
        made: its result.
        operands: the tensors that it reads.
        seen: what it was seen to yield.
    """
    if w.form is not Form.FULL or not w.is_value(made) or id(made) in w.coded:
        return made
    if all(is_op(user, vocab.QUANTIZE) for user in node.users):
        return made
    if not _between_codes(w, node, operands):
        return made
    qparams = _own_codes(node) or _codes_of_range(w, node, operands, seen)
    return made if qparams is None else rounded(w, made, qparams)


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
def _between_codes(w: Writer, node: fx.Node, operands: Sequence[Operand]) -> bool:
    """Whether an engine runs ``node``, or what reads it, from codes to codes."""
    if is_op(node, *JOINS):
        return bool(operands) and all(_known_codes(w, o) is not None for o in operands)
    if not is_op(node, *LAYERS) or not multiplies_codes(node):
        return False
    return any(is_op(user, *JOINS) for user in node.users)


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


def _codes_of_range(
    w: Writer, node: fx.Node, operands: Sequence[Operand], seen: Seen
) -> QParams | None:
    within = seen.results.get(node)
    if is_op(node, vocab.SIGMOID, vocab.HARDSIGMOID):
        within = (0.0, 1.0)
    if is_op(node, vocab.CAT):
        parts = (_known_codes(w, operand) for operand in operands)
        spans = [span(part) for part in parts if part is not None]
        within = common((min(s[0] for s in spans), max(s[1] for s in spans)), within)
    return None if within is None else _codes_for(within)
