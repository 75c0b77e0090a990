"""Sums, products, joins: operands with qparams of their own, a result with its own.

``a_qparams`` and ``b_qparams`` say what the codes ``a`` and ``b`` stand for, ``out_qparams`` what
those of the result do (their dtype is that of ``a`` where a pair is given); None gives float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qfx.errors import ConfigError
from qfx.ops.operands import Params, rectified, result, values


def add(
    a: Tensor,
    a_qparams: Params,
    b: Tensor,
    b_qparams: Params,
    out_qparams: Params | None = None,
    *,
    relu: bool = False,
) -> Tensor:
    """``y = a + b``, which broadcast; ``max(0, y)`` with ``relu``."""
    y = values(a, a_qparams, "a") + values(b, b_qparams, "b")
    return result(y, out_qparams, a.dtype, relu=relu)


def sub(
    a: Tensor,
    a_qparams: Params,
    b: Tensor,
    b_qparams: Params,
    out_qparams: Params | None = None,
    *,
    relu: bool = False,
) -> Tensor:
    """``y = a - b``, which broadcast; ``max(0, y)`` with ``relu``."""
    y = values(a, a_qparams, "a") - values(b, b_qparams, "b")
    return result(y, out_qparams, a.dtype, relu=relu)


def mul(
    a: Tensor,
    a_qparams: Params,
    b: Tensor,
    b_qparams: Params,
    out_qparams: Params | None = None,
    *,
    relu: bool = False,
) -> Tensor:
    """``y = a * b``, which broadcast; ``max(0, y)`` with ``relu``."""
    y = values(a, a_qparams, "a") * values(b, b_qparams, "b")
    return result(y, out_qparams, a.dtype, relu=relu)


def matmul(
    a: Tensor,
    a_qparams: Params,
    b: Tensor,
    b_qparams: Params,
    out_qparams: Params | None = None,
) -> Tensor:
    """``y = a @ b`` of (..., N, K) and (..., K, M), whose leading dims broadcast."""
    y = values(a, a_qparams, "a") @ values(b, b_qparams, "b")
    return result(y, out_qparams, a.dtype)


def add_scalar(
    a: Tensor, a_qparams: Params, number: float, out_qparams: Params | None = None
) -> Tensor:
    """``y = a + number``."""
    return result(values(a, a_qparams, "a") + number, out_qparams, a.dtype)


def mul_scalar(
    a: Tensor, a_qparams: Params, number: float, out_qparams: Params | None = None
) -> Tensor:
    """``y = a * number``."""
    return result(values(a, a_qparams, "a") * number, out_qparams, a.dtype)


def cat(
    tensors: Sequence[Tensor],
    qparams: Sequence[Params],
    out_qparams: Params | None = None,
    *,
    dim: int = 0,
    relu: bool = False,
) -> Tensor:
    """Join tensors along ``dim``; each is rounded to the steps of the result.

    Args:
        tensors: codes, at least one tensor, of shapes that agree but along ``dim``.
        qparams: those of each.
        out_qparams: those of the result; codes of operands that have them stay as they are.
        dim: where they are joined.
        relu: whether negative numbers become 0.0 first.

    Raises:
        ConfigError: no list of tensors, an empty one, or not as many qparams.
    """
    if isinstance(tensors, Tensor):
        raise ConfigError("tensors is one tensor; give a list of those to join, and their qparams")
    if not tensors or len(tensors) != len(qparams):
        raise ConfigError(
            f"cat joins one tensor or more, each with qparams: got {len(tensors)} tensors and"
            f" {len(qparams)} qparams"
        )
    pairs = zip(tensors, qparams, strict=True)
    y = torch.cat([values(t, q, f"tensors[{i}]") for i, (t, q) in enumerate(pairs)], dim)
    return result(y, out_qparams, tensors[0].dtype, relu=relu)


def requantize(
    codes: Tensor, qparams: Params, out_qparams: Params, *, dtype: torch.dtype | None = None
) -> Tensor:
    """The same numbers in the steps of ``out_qparams``.

    Args:
        codes: integer tensor of any shape.
        qparams: those of ``codes``.
        out_qparams: those of the result.
        dtype: of the result where ``out_qparams`` is a pair; None: that of ``codes``.
    """
    return result(values(codes, qparams, "codes"), out_qparams, dtype or codes.dtype)


add_relu, mul_relu, cat_relu = rectified(add), rectified(mul), rectified(cat)
