"""Post-ops: what a kernel may compute on its own result, in order.

    y = post_n(... post_1(op(x)))

Operations that a kernel may extend take ``post``, a tuple of post-ops ``(name, *operands)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Post = tuple[tuple[Any, ...], ...]

POST_OPS: dict[str, Callable[..., Tensor]] = {
    "relu": F.relu,
    "clamp": lambda y, low, high: torch.clamp(y, low, high),
    "hardswish": F.hardswish,
    "silu": F.silu,
    "gelu": lambda y, approximate="none": F.gelu(y, approximate=approximate),
    "leaky_relu": lambda y, slope=0.01: F.leaky_relu(y, slope),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "add": lambda y, other: y + other,
    "dropout": lambda y, p, kind: y,
}

"""What each post-op computes. ``add`` takes the residual tensor as its operand; ``dropout``, which
only graphs in training hold, does nothing in inference."""


def apply_post(y: Tensor, post: Post) -> Tensor:
    """Apply post-ops to ``y`` in order."""
    for name, *operands in post:
        y = POST_OPS[name](y, *operands)
    return y
