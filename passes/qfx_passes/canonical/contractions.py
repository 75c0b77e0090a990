"""Products of tensors along named dims, as equations of ``einsum``.

inner(x, y)           ->  ...z,...z->...    the last dims are summed
dot(x, y), vdot(x, y) ->  a,a->            vdot and vecdot of real numbers
vecdot(x, y, dim)     ->  abz,abz->ab       of equal shapes
tensordot(x, y, dims) ->  abz,zc->abc       pairs of dims are summed

:mod:`qfx_passes.canonical.einsum` makes matmuls and linear layers of these.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch
from qfx_passes.canonical.argument_values import rank_of
from qfx_passes.canonical.call_site import CallSite
from qfx_passes.canonical.einsum import expand_einsum
from qfx_passes.canonical.functional_calls import Spelling


def contract(site: CallSite, call: Spelling) -> fx.Node | Mismatch | None:
    """What replaces the call; None if it is no product along named dims."""
    names, equation = _EQUATIONS.get(call.target, ("", None))
    if equation is None:
        return None
    named = {name: value for name, value in call.kwargs.items() if value is not None}
    given = {**dict(zip(names.split(), call.args, strict=False)), **named}
    operands = [given.pop(name, None) for name in names.split()[:2]]
    ranks = [rank_of(operand) for operand in operands]
    if any(rank is None for rank in ranks) or given.keys() - {"dims", "dim"}:
        return Mismatch("a product of operands of unknown rank, or with more arguments")
    if equation is _of_rows and any(map(meta.is_complex, operands)):
        return Mismatch("a product with the conjugate of complex numbers")
    found = equation(*ranks, **given)
    if isinstance(found, Mismatch):
        return found
    return expand_einsum(site.node, (found, *operands), site.rewriter, trainable=site.trainable)


def _letters(ranks: tuple[int, int], summed: tuple[tuple[int, ...], tuple[int, ...]]) -> str:
    """The equation that sums pairs of dims, and keeps the others in order."""
    free = iter(string.ascii_letters)
    left = [next(free) for _ in range(ranks[0])]
    right = [next(free) for _ in range(ranks[1])]
    for one, other in zip(*summed, strict=True):
        right[other] = left[one]
    kept = [c for c in (*left, *right) if not (c in left and c in right)]
    return f"{''.join(left)},{''.join(right)}->{''.join(kept)}"


def _inner(one: int, other: int) -> str | Mismatch:
    if 0 in (one, other):
        return Mismatch("an inner product with a number")
    return _letters((one, other), ((-1,), (-1,)))


def _dot(one: int, other: int) -> str:
    return "a,a->"


def _of_rows(one: int, other: int, dim: object = -1) -> str | Mismatch:
    if one != other or type(dim) is not int:
        return Mismatch("rows of tensors of other ranks, or along a dim that is computed")
    indices = string.ascii_letters[:one]
    return f"{indices},{indices}->{indices.replace(indices[dim], '')}"


def _tensordot(one: int, other: int, dims: Any = 2) -> str | Mismatch:
    if type(dims) is int:
        return _letters((one, other), (tuple(range(one - dims, one)), tuple(range(dims))))
    pair = [each if isinstance(each, (tuple, list)) else (each,) for each in dims]
    numbers = [type(dim) is int for each in pair for dim in each]
    if len(pair) != 2 or not all(numbers) or len(pair[0]) != len(pair[1]):
        return Mismatch("dims that are computed")
    return _letters((one, other), (tuple(pair[0]), tuple(pair[1])))


_EQUATIONS: dict[Any, tuple[str, Callable[..., str | Mismatch]]] = {
    **dict.fromkeys((torch.inner, "inner"), ("input other", _inner)),
    **dict.fromkeys((torch.dot, "dot"), ("input tensor", _dot)),
    **dict.fromkeys((torch.vdot, "vdot"), ("input other", _of_rows)),
    torch.linalg.vecdot: ("x y dim", _of_rows),
    torch.tensordot: ("a b dims", _tensordot),
}
"""Names of arguments in order, and the equation for the ranks of the first two."""
