"""The forms in which a quantized model is written, and what engines make of them.

*exact* rounds where the reference rounds, and nowhere else. *integer* rounds the results of
convolutions, too, before activations and residuals that are computed in float: engines run a
convolution in integers only where what it yields is quantized.

What saturation does anyway is left out: quantize(clamp(x)) = quantize(x) where the smallest and the
largest code stand for no more than the ends of the clamp.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from qfx import vocab
from qfx.semantics.post import Post
from qfx.vocab import is_op

if TYPE_CHECKING:
    from qfx.export.onnx.writer import Writer


class Form(Enum):
    """How the model is written."""

    EXACT = "exact"
    INTEGER = "integer"


def post_ops(node: fx.Node, post: Post) -> Post:
    """``post``, the last left out if the codes that its result is rounded to saturate there."""
    if post and saturates(node, *_ends(*post[-1])):
        return post[:-1]
    return post


def _ends(name: str, *operands: Any) -> tuple[float, float]:
    """Between which numbers a post-op clamps; nothing if it does something else."""
    if name == "relu":
        return 0.0, math.inf
    if name == "clamp":
        low, high = (*operands, None, None)[:2]
        return (-math.inf if low is None else low), (math.inf if high is None else high)
    return math.nan, math.nan


def saturates(node: fx.Node, low: float, high: float) -> bool:
    """Whether the codes of a result, which nothing else reads, end where it is clamped."""
    users = list(node.users)
    if math.isnan(low) or len(users) != 1 or not is_op(users[0], vocab.QUANTIZE):
        return False
    given = vocab.bound(users[0])
    scale, zero, axis = given["scale"], given["zero_point"], given["axis"]
    if not isinstance(scale, float) or not isinstance(zero, int) or axis is not None:
        return False
    info = torch.iinfo(given["dtype"])
    least = info.min if given["quant_min"] is None else given["quant_min"]
    most = info.max if given["quant_max"] is None else given["quant_max"]
    return low / scale + zero <= least + 0.5 and high / scale + zero >= most - 0.5


def rounded_result(w: Writer, node: fx.Node, made: Any, post: Post, form: Form) -> Any:
    """The result of a convolution between codes, in the form for engines."""
    return made
