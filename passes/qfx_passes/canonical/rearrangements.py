"""What only moves or joins values, under names that are others with their dims counted otherwise.

movedim(x, a, b)                      ->  permute(x, dims=...)
hstack(t), vstack(t), dstack(t), ...  ->  cat(t, dim=1), cat(t, dim=0), cat(t, dim=2)
tile(x, n)                            ->  repeat(x, repeats=(1, ..., n))
x.view_as(y), x.expand_as(y)          ->  reshape(x, shape=size(y)), expand(x, size=size(y))
x.ravel()                             ->  flatten(x)
fliplr(x), flipud(x)                  ->  flip(x, dims=(1,)), flip(x, dims=(0,))
meshgrid(x, y)                        ->  meshgrid([x, y])
hsplit(x, n), vsplit(x, n)            ->  chunk(x, chunks=n, dim=...)
hsplit(x, (i, j)), vsplit(x, (i, j))  ->  tensor_split(x, sections=(i, j), dim=...)
x.adjoint()                           ->  transpose(x, dim0=-2, dim1=-1)      of real numbers
+x, x.atleast_2d(), ...               ->  x                          of as many dims
x.detach(), x.data                    ->  x, or detach(x)            where it is trained
Softmax2d(x)                          ->  softmax(x, dim=-3)

Joins of tensors of fewer dims, which torch adds some to, are left as they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from torch import fx, nn

from qfx import vocab
from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import OpDef
from qfx_passes.canonical.argument_values import is_computed, rank_of
from qfx_passes.canonical.call_site import CallSite
from qfx_passes.canonical.functional_calls import Spelling, name_of
from qfx_passes.canonical.tensor_arguments import elements

_Given: TypeAlias = "dict[str, Any]"
_Reader: TypeAlias = "Callable[[CallSite, _Given], fx.Node | Mismatch]"


def canonical_rearrangement(site: CallSite, call: Spelling) -> fx.Node | Mismatch | None:
    """The operation that the call is, with the dims that it has."""
    if call.kind == "call_module":
        if site.kind is not nn.Softmax2d:
            return None
        return site.becomes(vocab.SOFTMAX, {"input": site.operand, "dim": -3})
    name = str(call.args[1]) if call.target is getattr else name_of(call)
    if call.target is getattr:
        call = replace(call, args=call.args[:1])
    if name not in _READERS or not _is_of_torch(call):
        return None
    names, reader = _READERS[name]
    args = call.args
    if name == "tile" and len(args) > 2:
        args = (args[0], args[1:])
    if name == "meshgrid":
        call = replace(call, kwargs={"indexing": "ij", **call.kwargs})
        args = args[:1] if isinstance(args[0], (tuple, list)) else (args,)
    if len(args) > len(names) or not call.kwargs.keys() <= set(names):
        return Mismatch("arguments of {0} that are not known", name)
    given = {**dict(zip(names, args, strict=False)), **call.kwargs}
    if any(name not in given for name in names):
        return Mismatch("{0} without all of its arguments", name)
    return reader(site, given)


def _is_of_torch(call: Spelling) -> bool:
    """Whether the call is one of torch or of a tensor, and not of another's function."""
    if call.kind == "call_method":
        first = call.args[0] if call.args else None
        return isinstance(first, fx.Node) and meta.tensor_info(first) is not None
    module = getattr(call.target, "__module__", None) or "torch"
    return call.target is getattr or module.partition(".")[0] in ("torch", "_operator")


def _move_dims(site: CallSite, given: _Given) -> fx.Node | Mismatch:
    rank = rank_of(given["input"])
    source, destination = _numbers(given["source"]), _numbers(given["destination"])
    if rank is None or source is None or destination is None or len(source) != len(destination):
        return Mismatch("dims that are computed")
    source, destination = [s % rank for s in source], [d % rank for d in destination]
    rest = iter(dim for dim in range(rank) if dim not in source)
    placed = dict(zip(destination, source, strict=True))
    dims = tuple(placed[dim] if dim in placed else next(rest) for dim in range(rank))
    return site.becomes(vocab.PERMUTE, {"input": given["input"], "dims": dims})


def _stack(dim: int) -> _Reader:
    def join(site: CallSite, given: _Given) -> fx.Node | Mismatch:
        tensors = elements(given["tensors"], site)
        if tensors is None:
            return Mismatch("the list of tensors is computed")
        ranks = [rank_of(tensor) for tensor in tensors]
        if any(rank is None or rank < max(2, dim + 1) for rank in ranks):
            return Mismatch("tensors of fewer than {0} dims get some more", max(2, dim + 1))
        return site.becomes(vocab.CAT, {"tensors": tensors, "dim": dim})

    return join


def _meshgrid(site: CallSite, given: _Given) -> fx.Node | Mismatch:
    given["tensors"] = list(given["tensors"])
    return site.becomes(vocab.MESHGRID, given)


def _tile(site: CallSite, given: _Given) -> fx.Node | Mismatch:
    rank, dims = rank_of(given["input"]), given["dims"]
    repeats = (dims,) if isinstance(dims, (int, fx.Node)) else tuple(dims)
    if rank is None or isinstance(dims, fx.Node):
        return Mismatch("dims={0} is computed", dims)
    repeats = (1,) * (rank - len(repeats)) + repeats
    return site.becomes(vocab.REPEAT, {"input": given["input"], "repeats": repeats})


def _like(op: OpDef, name: str) -> _Reader:
    def form(site: CallSite, given: _Given) -> fx.Node | Mismatch:
        size = site.rewriter.call(vocab.SIZE, given["other"], origins=(site.node,), value=None)
        return site.becomes(op, {"input": given["input"], name: size})

    return form


def _ravel(site: CallSite, given: _Given) -> fx.Node | Mismatch:
    return site.becomes(vocab.FLATTEN, {"input": given["input"]})


def _flip(dim: int) -> _Reader:
    def flip(site: CallSite, given: _Given) -> fx.Node | Mismatch:
        return site.becomes(vocab.FLIP, {"input": given["input"], "dims": (dim,)})

    return flip


def _chunk(dim: int) -> _Reader:
    def chunk(site: CallSite, given: _Given) -> fx.Node | Mismatch:
        parts, rank = given["sections"], rank_of(given["input"])
        if rank is None or rank < 2 or is_computed(parts):
            return Mismatch("parts that are computed, or of a tensor of one dim")
        if not isinstance(parts, int):
            cuts = {"input": given["input"], "sections": tuple(parts), "dim": dim}
            return site.becomes(vocab.TENSOR_SPLIT, cuts)
        return site.becomes(vocab.CHUNK, {"input": given["input"], "chunks": parts, "dim": dim})

    return chunk


def _adjoint(site: CallSite, given: _Given) -> fx.Node | Mismatch:
    if not meta.is_float_tensor(given["input"]):
        return Mismatch("the adjoint of what may be complex")
    return site.becomes(vocab.TRANSPOSE, {"input": given["input"], "dim0": -2, "dim1": -1})


def _itself(least: int = 0) -> _Reader:
    """A call that hands its operand through if that has ``least`` dims."""

    def hand_through(site: CallSite, given: _Given) -> fx.Node | Mismatch:
        rank = rank_of(given["input"])
        if rank is None or rank < least:
            return Mismatch("a tensor of fewer than {0} dims gets some more", least)
        return site.through(given["input"])

    return hand_through


def _detach(site: CallSite, given: _Given) -> fx.Node | Mismatch:
    if rank_of(given["input"]) is None:
        return Mismatch("it is no tensor, as a packed sequence has data")
    if site.trainable and meta.is_float_tensor(given["input"]):
        return site.becomes(vocab.DETACH, {"input": given["input"]})
    return site.through(given["input"])


def _numbers(value: object) -> list[int] | None:
    values: Sequence[Any] = value if isinstance(value, (tuple, list)) else (value,)
    return list(values) if all(isinstance(v, int) for v in values) else None


_MOVES = (("input", "source", "destination"), _move_dims)
_READERS: dict[str, tuple[tuple[str, ...], _Reader]] = {
    **dict.fromkeys(("movedim", "moveaxis"), _MOVES),
    **dict.fromkeys(("hstack", "column_stack"), (("tensors",), _stack(1))),
    **dict.fromkeys(("vstack", "row_stack"), (("tensors",), _stack(0))),
    "dstack": (("tensors",), _stack(2)),
    "meshgrid": (("tensors", "indexing"), _meshgrid),
    "tile": (("input", "dims"), _tile),
    **dict.fromkeys(("view_as", "reshape_as"), (("input", "other"), _like(vocab.RESHAPE, "shape"))),
    "expand_as": (("input", "other"), _like(vocab.EXPAND, "size")),
    "ravel": (("input",), _ravel),
    "fliplr": (("input",), _flip(1)),
    "flipud": (("input",), _flip(0)),
    "hsplit": (("input", "sections"), _chunk(1)),
    "vsplit": (("input", "sections"), _chunk(0)),
    "adjoint": (("input",), _adjoint),
    **dict.fromkeys(("pos", "positive"), (("input",), _itself())),
    **{f"atleast_{n}d": (("input",), _itself(n)) for n in (1, 2, 3)},
    **dict.fromkeys(("detach", "data"), (("input",), _detach)),
}
"""Names of arguments in order, and what reads them."""
