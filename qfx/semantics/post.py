"""Post-ops: what a kernel may compute on its own result, in order.

    y = post_n(... post_1(op(x)))

Operations that a kernel may extend take ``post``, a tuple of post-ops ``(name, *operands)``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

Post = tuple[tuple[Any, ...], ...]

POST_OPS: dict[str, Callable[..., Tensor]] = {
    "add": lambda y, other: y + other,
    "dropout": lambda y, p, kind: y,
}
"""What each post-op computes: activations (:func:`post_op`), ``add``, which takes the residual
tensor as its operand, and ``dropout``, which only graphs in training hold: nothing in inference."""

F = TypeVar("F", bound=Callable[..., Tensor])


def post_op(function: F) -> F:
    """Let kernels compute an activation on their result; its attributes are operands, in order."""
    _, *names = inspect.signature(function).parameters

    def on_result(y: Tensor, *values: object) -> Tensor:
        return function(y, **dict(zip(names, values, strict=False)))

    POST_OPS[function.__name__] = on_result if names else function
    return function


def apply_post(y: Tensor, post: Post) -> Tensor:
    """Apply post-ops to ``y`` in order."""
    for name, *operands in post:
        y = POST_OPS[name](y, *operands)
    return y
