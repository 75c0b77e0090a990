"""Reductions that torch writes otherwise than the vocabulary, and what is made of them.

max(x, y), min(x, y)           ->  maximum(x, y), minimum(x, y)
max(x), min(x)                 ->  amax(x), amin(x)
max(x, d)[0], max(x, d).values ->  amax(x, dim=d)             where nothing reads which they were
max(x, d), min(x, d)           ->  max_along(x, dim=d), min_along(x, dim=d)
aminmax(x, dim=d)              ->  amin(x, dim=d), amax(x, dim=d)
sort(x, d)[0], topk(x, k)[0]   ->  sort_values(x, dim=d), topk_values(x, k=k)  likewise
median(x, d)[0]                ->  median(x, dim=d)  likewise
var(x, d, unbiased), std(...)  ->  var(x, dim=d, correction=unbiased)
var_mean(x, d), std_mean(x, d) ->  var(x, dim=d), mean(x, dim=d)
kthvalue(x, k, d), mode(x, d)  ->  kthvalue(x, k=k, dim=d), mode(x, dim=d)
norm(x, p, d)                  ->  vector_norm(x, ord=p, dim=d)
dist(x, y, p)                  ->  vector_norm(sub(x, y), ord=p)
pairwise_distance(x, y, p, e)  ->  vector_norm(add(sub(x, y), e), ord=p, dim=-1)
trace(x)                       ->  sum(diagonal(x))

Of equal largest values ``amax`` shares the gradient, and ``max`` along a dim gives it to one: where
the graph is to be trained, that stays ``max_along``.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from qfx import vocab
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import OpDef, is_op
from qfx_passes.canonical.argument_values import is_computed, rank_of
from qfx_passes.canonical.call_site import CallSite
from qfx_passes.canonical.functional_calls import Spelling
from qfx_passes.canonical.readings import (
    NamedArguments,
    Reader,
    Reading,
    factors,
    is_tensor,
    of_several,
    read,
)


def canonical_reduction(site: CallSite, call: Spelling) -> Reading:
    """The operations that the call comes to; None if others know it."""
    if call.kind != "call_module":
        return read(site, call, _READERS)
    module = site.module
    if not isinstance(module, nn.PairwiseDistance) or site.kind is not nn.PairwiseDistance:
        return None
    given = dict(zip(("input", "other"), site.node.args, strict=False))
    if len(given) < 2 or site.node.kwargs:
        return Mismatch("a distance of tensors given by name")
    return _pairwise(
        site, {**given, "p": module.norm, "eps": module.eps, "keepdim": module.keepdim}
    )


# -- extremes --------------------------------------------------------------------------------------
def _extreme(of_two: OpDef, along: OpDef, with_places: OpDef) -> Reader:
    def extreme(site: CallSite, given: NamedArguments) -> Reading:
        other = given.pop("other", None)
        if is_tensor(other):
            return site.becomes(of_two, {"input": given["input"], "other": other})
        given.setdefault("dim", other)
        if given["dim"] is None:
            return site.becomes(along, {"input": given["input"]})
        if not site.trainable:
            made = _along(site, along, {**given})
            if not isinstance(made, Mismatch):
                return made
        return of_several(site, with_places, given, ("values", "indices"))

    return extreme


def _in_order(of_values: OpDef, of_both: OpDef) -> Reader:
    """The values alone where nothing reads where they were: codes are in the same order."""

    def in_order(site: CallSite, given: NamedArguments) -> Reading:
        if given.get("sorted", True) and isinstance(given.get("dim", -1), int):
            values = {n: v for n, v in given.items() if n not in ("sorted", "stable")}
            made = _along(site, of_values, {"dim": -1, **values})
            if not isinstance(made, Mismatch):
                return made
        return of_several(site, of_both, given, ("values", "indices"))

    return in_order


def _middle(site: CallSite, given: NamedArguments) -> Reading:
    if given.get("dim") is None:
        return site.becomes(vocab.MEDIAN, {"input": given["input"]})
    return _along(site, vocab.MEDIAN, given)


def _along(site: CallSite, op: OpDef, given: NamedArguments) -> Reading:
    """The values, for all who read nothing but them."""
    values = [reader for reader in site.node.users if _reads_values(reader)]
    rest = [reader for reader in site.node.users if reader not in values]
    if not all(map(_asks_nothing, rest)) or not isinstance(given["dim"], int):
        return Mismatch("where the values were is read, too")
    rewriter = site.rewriter
    made = rewriter.call(op, given.pop("input"), origins=(site.node,), **given)
    for reader in values:
        rewriter.replace(reader, made)
    for guard in [guard for reader in rest for guard in reader.users]:
        rewriter.erase(guard)
    return made


def _reads_values(reader: fx.Node) -> bool:
    if reader.target is getattr:
        return bool(reader.args[1] == "values")
    return reader.target is operator.getitem and reader.args[1] in (0, -2)


def _asks_nothing(reader: fx.Node) -> bool:
    """Whether nothing comes of what is read: but guards of how many there are, which are two."""
    if reader.target is len:
        return all(is_op(user, vocab.GUARD) for user in reader.users)
    return reader.target is operator.getitem and not reader.users


def _parts(site: CallSite, ops: dict[str, tuple[OpDef, NamedArguments]]) -> Reading:
    """A call of several results, each by an operation of its own; its readers pick one."""
    names = list(ops)
    readers = [*site.node.users]
    picked = [_picked(reader, names) for reader in readers]
    if any(name is None for name in picked):
        return Mismatch("its results are read together")
    rewriter, made = site.rewriter, {}
    for reader, name in zip(readers, picked, strict=True):
        if name not in made:
            op, given = ops[str(name)]
            arguments = dict(given)
            operand = arguments.pop("input")
            made[name] = rewriter.call(op, operand, origins=(site.node,), **arguments)
        rewriter.replace(reader, made[name])
    return next(iter(made.values()), None) or Mismatch("nothing of it is read")


def _picked(reader: fx.Node, names: list[str]) -> str | None:
    """Which of several results ``reader`` takes out."""
    if reader.target is getattr and reader.args[1] in names:
        return str(reader.args[1])
    index = reader.args[1] if reader.target is operator.getitem else None
    return names[index] if type(index) is int and -len(names) <= index < len(names) else None


def _both_extremes(site: CallSite, given: NamedArguments) -> Reading:
    arguments = {n: value for n, value in given.items() if value is not None}
    return _parts(site, {"min": (vocab.AMIN, arguments), "max": (vocab.AMAX, arguments)})


# -- reductions ------------------------------------------------------------------------------------
def _spread(op: OpDef, *, with_mean: bool = False) -> Reader:
    def spread(site: CallSite, given: NamedArguments) -> Reading:
        if isinstance(given.get("dim"), bool):  # var(x, unbiased)
            given["unbiased"] = given.pop("dim")
        correction = given.pop("correction", None)
        unbiased = given.pop("unbiased", True)
        if is_computed(unbiased) or is_computed(correction):
            return Mismatch("its correction is computed")
        given["dim"] = _dims(given.get("dim"))
        of_squares = {**given, "correction": int(unbiased) if correction is None else correction}
        if not with_mean:
            return site.becomes(op, of_squares)
        return _parts(site, {op.name: (op, of_squares), "mean": (vocab.MEAN, given)})

    return spread


def _norm(site: CallSite, given: NamedArguments) -> Reading:
    """The norm of vectors; matrices have norms of their own, but for that of Frobenius."""
    order, dim = given.pop("p", "fro"), _dims(given.pop("dim", None))
    order = 2 if order in ("fro", None) else order
    if not isinstance(order, (int, float)) or given.pop("dtype", None) is not None:
        return Mismatch("a norm of matrices")
    return site.becomes(vocab.VECTOR_NORM, {**given, "ord": order, "dim": dim})


def _linalg_norm(site: CallSite, given: NamedArguments) -> Reading:
    order, dim = given.pop("ord", None), _dims(given.get("dim"))
    dim = dim[0] if isinstance(dim, tuple) and len(dim) == 1 else dim
    of_vectors = isinstance(dim, int) or (dim is None and rank_of(given["input"]) == 1)
    if order is not None and not of_vectors:
        dims = {} if dim is None else {"dim": dim}
        if given.pop("dtype", None) is not None or not isinstance(order, (int, float, str)):
            return Mismatch("a norm in another dtype, or whose order is computed")
        rest = {name: value for name, value in given.items() if name != "dim"}
        return site.becomes(vocab.MATRIX_NORM, {**rest, "ord": order, **dims})
    return _norm(site, {**given, "p": order})


def _dims(dim: object) -> Any:
    """The dims that are named; None stands for all, and so does an empty list."""
    dims = tuple(dim) if isinstance(dim, (tuple, list)) else dim
    return None if dims == () else dims


def _distance(site: CallSite, given: NamedArguments) -> Reading:
    difference = site.rewriter.call(vocab.SUB, given["input"], given["other"], origins=(site.node,))
    return site.becomes(vocab.VECTOR_NORM, {"input": difference, "ord": given.get("p", 2)})


def _pairwise(site: CallSite, given: NamedArguments) -> Reading:
    rewriter, origins = site.rewriter, (site.node,)
    difference = rewriter.call(vocab.SUB, given["input"], given["other"], origins=origins)
    apart = rewriter.call(vocab.ADD, difference, given.get("eps", 1e-6), origins=origins)
    norm = {"ord": given.get("p", 2.0), "dim": -1, "keepdim": given.get("keepdim", False)}
    return site.becomes(vocab.VECTOR_NORM, {"input": apart, **norm})


def _trace(site: CallSite, given: NamedArguments) -> Reading:
    diagonal = site.rewriter.call(vocab.DIAGONAL, given["input"], origins=(site.node,))
    return site.becomes(vocab.SUM, {"input": diagonal})


_SPREAD = "input dim unbiased keepdim correction"
_PAIR = "input other p eps keepdim"
_READERS: dict[Any, tuple[str, Reader]] = {
    **dict.fromkeys(
        (torch.max, "max"),
        ("input other keepdim dim", _extreme(vocab.MAXIMUM, vocab.AMAX, vocab.MAX_ALONG)),
    ),
    **dict.fromkeys(
        (torch.min, "min"),
        ("input other keepdim dim", _extreme(vocab.MINIMUM, vocab.AMIN, vocab.MIN_ALONG)),
    ),
    **dict.fromkeys((torch.aminmax, "aminmax"), ("input dim keepdim", _both_extremes)),
    **dict.fromkeys((torch.median, "median"), ("input dim keepdim", _middle)),
    **dict.fromkeys(
        (torch.kthvalue, "kthvalue"),
        ("input k dim keepdim", factors(vocab.KTHVALUE, "values", "indices")),
    ),
    **dict.fromkeys(
        (torch.mode, "mode"), ("input dim keepdim", factors(vocab.MODE, "values", "indices"))
    ),
    **dict.fromkeys((torch.var, "var"), (_SPREAD, _spread(vocab.VAR))),
    **dict.fromkeys((torch.std, "std"), (_SPREAD, _spread(vocab.STD))),
    torch.var_mean: (_SPREAD, _spread(vocab.VAR, with_mean=True)),
    torch.std_mean: (_SPREAD, _spread(vocab.STD, with_mean=True)),
    **dict.fromkeys((torch.norm, "norm"), ("input p dim keepdim dtype", _norm)),
    torch.linalg.norm: ("input ord dim keepdim dtype", _linalg_norm),
    **dict.fromkeys((torch.dist, "dist"), ("input other p", _distance)),
    **dict.fromkeys((torch.pairwise_distance, F.pairwise_distance), (_PAIR, _pairwise)),
    **dict.fromkeys((torch.trace, "trace"), ("input", _trace)),
    **dict.fromkeys(
        (torch.sort, "sort"),
        ("input dim descending stable", _in_order(vocab.SORT_VALUES, vocab.SORT)),
    ),
    **dict.fromkeys(
        (torch.topk, "topk"),
        ("input k dim largest sorted", _in_order(vocab.TOPK_VALUES, vocab.TOPK)),
    ),
}
"""Names of arguments in order, and what reads them."""
