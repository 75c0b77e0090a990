"""The forms in which a quantized model is written, and what engines make of them.

*exact* rounds where the reference rounds, and nowhere else. *integer* rounds the results of
convolutions, too, before activations and residuals that are computed in float: engines run a
convolution in integers only where what it yields is quantized, and a sum only where its operands
are. The range of such a result need not be measured: it follows from that of what comes of it,

    q(f(x + r))    with r in [r0, r1], codes of q up to [y0, y1]:  x matters within
                   [inf {f^-1(y0)} - r1, sup {f^-1(y1)} - r0]

beyond which the code of f(x + r) does not change any more. Example inputs narrow it further.

*full_integer* rounds, too, what engines can compute from codes to codes (``rounding.py``).

Three forms round what attention multiplies, and nothing else that the reference does not. *scores*
rounds queries and keys to int8, *attention* the weights and the values that they weigh, as well;
OpenVINO then multiplies integers. *bfloat16* rounds all of these to bfloat16, which is finer than
codes for a whole tensor, and as fast on CPUs that multiply such numbers. What one layer yields for
queries, keys and values is there computed by a layer for each (``layer_parts.py``).

What saturation does anyway is left out of every form: quantize(clamp(x)) = quantize(x) where the
smallest and the largest code stand for no more than the ends of the clamp.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

import torch
from torch import fx

from qfx import vocab
from qfx.export.onnx.seen import Range
from qfx.graph import meta
from qfx.quant.qparams import QParams
from qfx.quant.reference_form import Measured, qparams_of
from qfx.semantics.post import POST_OPS, Post
from qfx.vocab import bounds_of_post_op, is_op

_REACH, _POINTS = 32.0, 2**16 + 1
"""How far activations are looked at, at least: beyond that they are constant or go on straight."""

_FLAT = 1e-3
"""A slope below which a function goes on as it is."""


class OnnxForm(Enum):
    """How the model is written."""

    EXACT = "exact"
    SCORES = "scores"
    ATTENTION = "attention"
    BFLOAT16 = "bfloat16"
    INTEGER = "integer"
    FULL = "full_integer"

    @property
    def rounds_layers(self) -> bool:
        """Whether results of layers are rounded that the model does not round."""
        return self in (OnnxForm.INTEGER, OnnxForm.FULL)

    @property
    def multiplies_scores(self) -> bool:
        """Whether queries and keys are rounded, so that their product is one of integers."""
        return self in (OnnxForm.SCORES, OnnxForm.ATTENTION)

    @property
    def multiplies_weights(self) -> bool:
        """Whether the weights of attention are rounded, and the values that they weigh."""
        return self is OnnxForm.ATTENTION


# -- what saturation does --------------------------------------------------------------------------
def post_ops(post: Post, to: QParams | None) -> Post:
    """``post``, the last left out if the codes that its result is rounded to saturate there."""
    if post and to is not None and saturates(to, *_ends(*post[-1])):
        return post[:-1]
    return post


def _ends(name: str, *operands: object) -> Range:
    """Between which numbers a post-op clamps; nothing if it does something else."""
    low, high = bounds_of_post_op((name, *operands))
    if low is None and high is None:
        return math.nan, math.nan
    return (-math.inf if low is None else low), (math.inf if high is None else high)


def saturates(to: QParams, low: float, high: float) -> bool:
    """Whether the codes that a result is rounded to end where it is clamped."""
    if math.isnan(low):
        return False
    least, most = span(to)
    half = float(to.scale) / 2
    return low <= least + half and high >= most - half


def rounded_to(node: fx.Node) -> QParams | None:
    """The codes that the result of ``node`` is rounded to, per tensor, if nothing else reads it.

    In between may stand what yields some of the values that it is given, and the larger of two for
    the larger of two: q(max(x, y)) = max(q(x), q(y)).
    """
    value, users = node, list(node.users)
    while len(users) == 1 and _selects(users[0], value):
        value, users = users[0], list(users[0].users)
    if len(users) != 1 or not is_op(users[0], vocab.QUANTIZE):
        return None
    module = node.graph.owning_module
    assert module is not None
    qparams = qparams_of(users[0], module)
    if isinstance(qparams, Measured) or qparams.axis is not None:
        return None
    return qparams


def _selects(reader: fx.Node, value: fx.Node) -> bool:
    """Whether a node rearranges a tensor, takes maxima of it, or hands it on."""
    if not isinstance(reader.target, vocab.OpDef) or reader.args[:1] != (value,):
        return False
    maxima = is_op(reader, *vocab.MAX_POOLS, *vocab.ADAPTIVE_MAX_POOLS)
    return reader.target.rearranges or maxima or _averages_one(reader, value)


def _averages_one(reader: fx.Node, value: fx.Node) -> bool:
    """Whether a node averages each value by itself: to as many, at sizes that are fixed then."""
    if not is_op(reader, *vocab.ADAPTIVE_AVG_POOLS):
        return False
    before, after = meta.tensor_info(value), meta.tensor_info(reader)
    if before is None or after is None:
        return False
    dims = reader.target.dims  # type: ignore[union-attr]
    return before.shape == after.shape and any(size != 1 for size in after.shape[-dims:])


def span(qparams: QParams) -> Range:
    """What the smallest and the largest code stand for."""
    scale, zero = float(qparams.scale), int(qparams.zero_point)
    return (qparams.quant_min - zero) * scale, (qparams.quant_max - zero) * scale


# -- what results of layers may be -----------------------------------------------------------------
def multiplies_codes(node: fx.Node) -> bool:
    """Whether both operands are what codes stand for, with scales that are known."""
    input, weight = node.args[:2]
    if not isinstance(input, fx.Node) or not isinstance(weight, fx.Node):
        return False
    module = node.graph.owning_module
    assert module is not None
    return all(
        is_op(each, vocab.DEQUANTIZE) and not isinstance(qparams_of(each, module), Measured)
        for each in (input, weight)
    )


def layer_range(post: Post, to: QParams | None, seen: Range | None) -> Range | None:
    """Where the result of a layer matters, and was seen; None if neither is known.

    Args:
        post: what is computed of it.
        to: the codes that the result of that is rounded to.
        seen: between which numbers the layer's own result was seen.
    """
    return seen if to is None else common(_before(post, to), seen)


def common(known: Range | None, seen: Range | None) -> Range | None:
    """What lies in both of two ranges; the known one where nothing does."""
    if known is None or seen is None:
        return seen or known
    low, high = max(known[0], seen[0]), min(known[1], seen[1])
    return (low, high) if low < high else known


def _before(post: Post, qparams: QParams) -> Range | None:
    """Where the codes of what post-ops make of a value depend on it."""
    low, high = span(qparams)
    half = float(qparams.scale) / 2
    low, high = low - half, high + half
    for name, *operands in reversed(post):
        found = (
            _before_sum(low, high, operands[0])
            if name == "add"
            else _before_activation(name, operands, low, high, half)
        )
        if found is None:
            return None
        low, high = found
    return low, high


def _before_sum(low: float, high: float, other: object) -> Range | None:
    """Where ``x`` matters in ``x + other``, if it is known where that lies."""
    if not isinstance(other, fx.Node) or not is_op(other, vocab.DEQUANTIZE):
        return None
    module = other.graph.owning_module
    assert module is not None
    qparams = qparams_of(other, module)
    if isinstance(qparams, Measured) or qparams.axis is not None:
        return None
    least, most = span(qparams)
    return low - most, high - least


def _before_activation(
    name: str, operands: list[Any], low: float, high: float, half: float
) -> Range | None:
    """Where ``x`` matters in ``f(x)``, of which no more than half a step counts.

    From the ends of a grid inwards: as long as ``f`` keeps to within half a step of what it is
    there, or lies beyond the codes on that side, ``x`` does not matter.
    """
    if name == "dropout":
        return low, high
    reach = max(_REACH, 2 * abs(low), 2 * abs(high))
    places = torch.linspace(-reach, reach, _POINTS)
    values = POST_OPS[name](places, *operands)
    left = _end(values, places, low, high, half)
    right = _end(values.flip(0), places.flip(0), low, high, half)
    return None if left is None or right is None else (left, right)


def _end(
    values: torch.Tensor, places: torch.Tensor, low: float, high: float, half: float
) -> float | None:
    """From where on, going inwards, a function moves by half a step; beyond the grid if it must."""
    slope = float((values[1] - values[0]) / (places[1] - places[0]))
    if low < float(values[0]) < high and abs(slope) > _FLAT:
        wanted = low if slope * float(places[1] - places[0]) > 0 else high
        return float(places[0]) + (wanted - float(values[0])) / slope
    kept = values.clamp(low, high)
    moved = ((kept - kept[0]).abs() > half).nonzero()
    return float(places[max(int(moved[0]) - 1, 0)]) if len(moved) else None
