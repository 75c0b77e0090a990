"""The forms in which a quantized model is written, and what engines make of them.

*exact* rounds where the reference rounds, and nowhere else. *integer* rounds the results of
convolutions, too, before activations and residuals that are computed in float: engines run a
convolution in integers only where what it yields is quantized, and a sum only where its operands
are. The range of such a result need not be measured: it follows from that of what comes of it,

    q(f(x + r))    with r in [r0, r1], codes of q up to [y0, y1]:  x matters within
                   [inf {f^-1(y0)} - r1, sup {f^-1(y1)} - r0]

beyond which the code of f(x + r) does not change any more. Example inputs narrow it further.

What saturation does anyway is left out of every form: quantize(clamp(x)) = quantize(x) where the
smallest and the largest code stand for no more than the ends of the clamp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from qfx import vocab
from qfx.export.onnx.sizes import input_value
from qfx.graph.interpret import NamedInterpreter, result_of
from qfx.quant.qparams import QParams, choose_numbers
from qfx.quant.reference_form import Measured, qparams_of
from qfx.semantics.post import POST_OPS, Post, apply_post
from qfx.vocab import bounds_of_post_op, is_op

if TYPE_CHECKING:
    from qfx.export.onnx.writer import Writer

Ranges = Mapping[fx.Node, "tuple[float, float]"]
"""Smallest and largest value that convolutions were seen to yield, before their post-ops."""

_REACH, _POINTS = 32.0, 2**16 + 1
"""How far activations are looked at, at least: beyond that they are constant or go on straight."""

_FLAT = 1e-3
"""A slope below which a function goes on as it is."""
_ROUNDED = (*vocab.CONVOLUTIONS, *vocab.TRANSPOSED)


class Form(Enum):
    """How the model is written."""

    EXACT = "exact"
    INTEGER = "integer"


# -- what saturation does --------------------------------------------------------------------------
def post_ops(node: fx.Node, post: Post) -> Post:
    """``post``, the last left out if the codes that its result is rounded to saturate there."""
    if post and saturates(node, *_ends(*post[-1])):
        return post[:-1]
    return post


def _ends(name: str, *operands: object) -> tuple[float, float]:
    """Between which numbers a post-op clamps; nothing if it does something else."""
    low, high = bounds_of_post_op((name, *operands))
    if low is None and high is None:
        return math.nan, math.nan
    return (-math.inf if low is None else low), (math.inf if high is None else high)


def saturates(node: fx.Node, low: float, high: float) -> bool:
    """Whether the codes of a result, which nothing else reads, end where it is clamped."""
    qparams = _rounded_to(node)
    if math.isnan(low) or qparams is None:
        return False
    least, most = _span(qparams)
    half = float(qparams.scale) / 2
    return low <= least + half and high >= most - half


def _rounded_to(node: fx.Node) -> QParams | None:
    """The codes that the result of ``node`` is rounded to, per tensor, if nothing else reads it."""
    users = list(node.users)
    if len(users) != 1 or not is_op(users[0], vocab.QUANTIZE):
        return None
    module = node.graph.owning_module
    assert module is not None
    qparams = qparams_of(users[0], module)
    if isinstance(qparams, Measured) or qparams.axis is not None:
        return None
    return qparams


def _span(qparams: QParams) -> tuple[float, float]:
    """What the smallest and the largest code stand for."""
    scale, zero = float(qparams.scale), int(qparams.zero_point)
    return (qparams.quant_min - zero) * scale, (qparams.quant_max - zero) * scale


# -- results of convolutions -----------------------------------------------------------------------
def rounded_result(w: Writer, node: fx.Node, made: Any, ranges: Ranges | None) -> Any:
    """The result of a convolution between codes, itself rounded before its post-ops.

    Args:
        w: where it is written.
        node: the convolution.
        made: its result, before its post-ops.
        ranges: what it was seen to yield; None for the exact form.
    """
    if ranges is None or not is_op(node, *_ROUNDED):
        return made
    post: Post = node.kwargs.get("post", ())  # type: ignore[assignment]
    if not post_ops(node, post) and _rounded_to(node) is not None:
        return made
    if not _multiplies_codes(node):
        return made
    found = _range(node, post, ranges)
    if found is None:
        return made
    scale, zero = choose_numbers(*found, 0, 255)
    numbers = w.scalar(scale, torch.float32), w.scalar(zero, torch.uint8)
    w.tell(made, w.results)
    codes = w.op("QuantizeLinear", made, *numbers)
    return w.op("DequantizeLinear", codes, *numbers, like=made)


def _multiplies_codes(node: fx.Node) -> bool:
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


def _range(node: fx.Node, post: Post, ranges: Ranges) -> tuple[float, float] | None:
    """Where the result of a convolution matters, and was seen; None if neither is known."""
    seen, qparams = ranges.get(node), _rounded_to(node)
    if qparams is None:
        return seen
    found = _before(post, qparams)
    if found is None or seen is None:
        return seen or found
    low, high = max(found[0], seen[0]), min(found[1], seen[1])
    return (low, high) if low < high else found


def _before(post: Post, qparams: QParams) -> tuple[float, float] | None:
    """Where the codes of what post-ops make of a value depend on it."""
    low, high = _span(qparams)
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


def _before_sum(low: float, high: float, other: object) -> tuple[float, float] | None:
    """Where ``x`` matters in ``x + other``, if it is known where that lies."""
    if not isinstance(other, fx.Node) or not is_op(other, vocab.DEQUANTIZE):
        return None
    module = other.graph.owning_module
    assert module is not None
    qparams = qparams_of(other, module)
    if isinstance(qparams, Measured) or qparams.axis is not None:
        return None
    least, most = _span(qparams)
    return low - most, high - least


def _before_activation(
    name: str, operands: list[Any], low: float, high: float, half: float
) -> tuple[float, float] | None:
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


def seen_ranges(module: fx.GraphModule, arguments: Mapping[str, object]) -> Ranges:
    """What convolutions with post-ops yield before these, for inputs by name."""
    defaults = {
        str(node.target).lstrip("*"): input_value(node)
        for node in module.graph.find_nodes(op="placeholder")
    }
    watch = _Watch(module, {**defaults, **arguments})
    with torch.no_grad():
        watch.run()
    return watch.seen


class _Watch(NamedInterpreter):
    """Runs a graph, and keeps the extremes of what convolutions yield."""

    def __init__(self, module: fx.GraphModule, arguments: Mapping[str, object]) -> None:
        super().__init__(module, arguments)
        self.seen: dict[fx.Node, tuple[float, float]] = {}

    def run_node(self, n: fx.Node) -> Any:
        if not is_op(n, *_ROUNDED):
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        post = kwargs.pop("post", ())
        made = result_of(n, args, kwargs)
        least, most = torch.aminmax(made)
        self.seen[n] = float(least), float(most)
        return apply_post(made, post)
