"""Functions that torch has beside those of the vocabulary, by what they mean.

max(x, y), min(x, y)           ->  maximum(x, y), minimum(x, y)
max(x), min(x)                 ->  amax(x), amin(x)
max(x, d)[0], max(x, d).values ->  amax(x, dim=d)             where nothing reads which they were
clamp(x, a, b)                 ->  minimum(maximum(x, a), b)  of tensors a and b
var(x, d, unbiased), std(...)  ->  var(x, dim=d, correction=unbiased)
norm(x, p, d)                  ->  vector_norm(x, ord=p, dim=d)
softmin(x)                     ->  softmax(neg(x))
rsub(x, y)                     ->  sub(y, x)
addcmul(x, y, z, value=v)      ->  add(x, mul(mul(y, z), v))
rrelu(x, a, b)                 ->  leaky_relu(x, (a + b) / 2)  in inference
sort(x, d)[0], topk(x, k)[0]   ->  sort_values(x, dim=d), topk_values(x, k=k)  likewise
rot90(x, k, (a, b))            ->  transpose(flip(x, b), a, b) and the like
tensor_split(x, indices=i)     ->  tensor_split(x, sections=i)

Of equal largest values ``amax`` shares the gradient, and ``max`` gives it to one: where the graph
is to be trained, ``max`` stays.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import fx, nn

from qfx import vocab
from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import OpDef, is_op
from qfx_passes.canonical.argument_values import is_computed, rank_of
from qfx_passes.canonical.call_site import CallSite
from qfx_passes.canonical.functional_calls import Spelling

_Given: TypeAlias = "dict[str, Any]"
_Found: TypeAlias = "fx.Node | Mismatch | None"
_Reader: TypeAlias = "Callable[[CallSite, _Given], _Found]"


def reword(site: CallSite, call: Spelling) -> _Found:
    """The operations that the call comes to; None if others know it."""
    if call.kind == "call_module":
        return _module(site)
    names, reader = _READERS.get(call.target, ("", None))
    operand = call.args[0] if call.args else call.kwargs.get("input")
    if reader is None or not _is_tensor(operand):
        return None
    known = names.split()
    kwargs = {n: value for n, value in call.kwargs.items() if n in known or value is not None}
    if len(call.args) > len(known) or not kwargs.keys() <= set(known):
        return None
    return reader(site, {**dict(zip(known, call.args, strict=False)), **kwargs})


def _module(site: CallSite) -> _Found:
    module = site.module
    if isinstance(module, nn.RReLU) and site.kind is nn.RReLU and not module.training:
        return _slope(site, site.operand, module.lower, module.upper)
    if isinstance(module, nn.Softmin) and site.kind is nn.Softmin:
        return _softmin(site, {"input": site.operand, "dim": module.dim})
    return None


def _is_tensor(value: object) -> bool:
    return isinstance(value, fx.Node) and meta.tensor_info(value) is not None


# -- extremes --------------------------------------------------------------------------------------
def _extreme(of_two: OpDef, along: OpDef) -> _Reader:
    def read(site: CallSite, given: _Given) -> _Found:
        other = given.pop("other", None)
        if _is_tensor(other):
            return site.becomes(of_two, {"input": given["input"], "other": other})
        given.setdefault("dim", other)
        if site.trainable:
            return Mismatch("of equal largest values, one gets the gradient")
        if given["dim"] is None:
            return site.becomes(along, {"input": given["input"]})
        return _along(site, along, given)

    return read


def _in_order(of_values: OpDef, of_both: OpDef) -> _Reader:
    """The values alone where nothing reads where they were: codes are in the same order."""

    def read(site: CallSite, given: _Given) -> _Found:
        if given.get("sorted", True) and isinstance(given.get("dim", -1), int):
            values = {n: v for n, v in given.items() if n not in ("sorted", "stable")}
            made = _along(site, of_values, {"dim": -1, **values})
            if not isinstance(made, Mismatch):
                return made
        return _of_several(site, of_both, given, ("values", "indices"))

    return read


def _of_several(site: CallSite, op: OpDef, given: _Given, fields: Sequence[str]) -> _Found:
    """An operation of several results, whose readers by the name of a field read by place."""
    readers = [reader for reader in site.node.users if reader.target is getattr]
    if any(reader.args[1] not in fields for reader in readers):
        return Mismatch("something else than its results is read")
    if not readers:
        return site.becomes(op, given)
    rewriter = site.rewriter
    made = rewriter.call(op, given.pop("input"), origins=(site.node,), **given)
    for reader in readers:
        index = fields.index(str(reader.args[1]))
        element = rewriter.call(vocab.GETITEM, made, index, origins=(reader,))
        rewriter.replace(reader, element)
    return site.through(made)


def _along(site: CallSite, op: OpDef, given: _Given) -> _Found:
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


def _clamp(site: CallSite, given: _Given) -> _Found:
    bounds = [(vocab.MAXIMUM, given.get("min")), (vocab.MINIMUM, given.get("max"))]
    given_bounds = [(op, bound) for op, bound in bounds if bound is not None]
    if not given_bounds or not all(_is_tensor(bound) for _, bound in given_bounds):
        return None
    result = given["input"]
    for op, bound in given_bounds:
        result = site.rewriter.call(op, result, bound, origins=(site.node,))
    return site.through(result)


# -- reductions ------------------------------------------------------------------------------------
def _spread(op: OpDef) -> _Reader:
    def read(site: CallSite, given: _Given) -> _Found:
        if isinstance(given.get("dim"), bool):  # var(x, unbiased)
            given["unbiased"] = given.pop("dim")
        correction = given.pop("correction", None)
        unbiased = given.pop("unbiased", True)
        if is_computed(unbiased) or is_computed(correction):
            return Mismatch("its correction is computed")
        given["correction"] = int(unbiased) if correction is None else correction
        return site.becomes(op, {**given, "dim": _dims(given.get("dim"))})

    return read


def _norm(site: CallSite, given: _Given) -> _Found:
    """Of vectors: matrices have norms of their own, but for that of Frobenius."""
    order, dim = given.pop("p", "fro"), _dims(given.pop("dim", None))
    order = 2 if order in ("fro", None) else order
    if not isinstance(order, (int, float)) or given.pop("dtype", None) is not None:
        return Mismatch("a norm of matrices")
    return site.becomes(vocab.VECTOR_NORM, {**given, "ord": order, "dim": dim})


def _linalg_norm(site: CallSite, given: _Given) -> _Found:
    order, dim = given.pop("ord", None), _dims(given.get("dim"))
    of_vectors = isinstance(dim, int) or (dim is None and rank_of(given["input"]) == 1)
    if order is not None and not of_vectors:
        dims = {} if dim is None else {"dim": dim}
        if given.pop("dtype", None) is not None or not isinstance(order, (int, float, str)):
            return Mismatch("a norm in another dtype, or whose order is computed")
        rest = {name: value for name, value in given.items() if name != "dim"}
        return site.becomes(vocab.MATRIX_NORM, {**rest, "ord": order, **dims})
    return _norm(site, {**given, "p": order})


def _dims(dim: Any) -> Any:
    """No dims named are all dims."""
    dims = tuple(dim) if isinstance(dim, (tuple, list)) else dim
    return None if dims == () else dims


# -- the rest --------------------------------------------------------------------------------------
def _softmin(site: CallSite, given: _Given) -> _Found:
    dim, rank = given.get("dim"), rank_of(given["input"])
    if given.get("dtype") is not None or rank is None:
        return Mismatch("another dtype, or a tensor of unknown rank")
    if dim is None:
        dim = 0 if rank in (0, 1, 3) else 1  # as torch chooses
    negative = site.rewriter.call(vocab.NEG, given["input"], origins=(site.node,))
    return site.becomes(vocab.SOFTMAX, {"input": negative, "dim": dim})


def _reversed(site: CallSite, given: _Given) -> _Found:
    if given.pop("alpha", 1) != 1:
        return Mismatch("alpha scales what is subtracted")
    return site.becomes(vocab.SUB, {"input": given["other"], "other": given["input"]})


def _added_product(site: CallSite, given: _Given) -> _Found:
    value = given.get("value", 1)
    rewriter, origins = site.rewriter, (site.node,)
    product = rewriter.call(vocab.MUL, given["tensor1"], given["tensor2"], origins=origins)
    if value != 1:
        product = rewriter.call(vocab.MUL, product, value, origins=origins)
    return site.becomes(vocab.ADD, {"input": given["input"], "other": product})


def _rrelu(site: CallSite, given: _Given) -> _Found:
    if given.get("training", False) is not False:
        return None
    return _slope(site, given["input"], given.get("lower", 1 / 8), given.get("upper", 1 / 3))


def _slope(site: CallSite, input: fx.Node, lower: float, upper: float) -> _Found:
    slope = (lower + upper) / 2
    return site.becomes(vocab.LEAKY_RELU, {"input": input, "negative_slope": slope})


def _parts(site: CallSite, given: _Given) -> _Found:
    indices = given.pop("indices", None)
    if indices is None:
        return None
    given["sections"] = tuple(indices) if isinstance(indices, list) else indices
    return site.becomes(vocab.TENSOR_SPLIT, given)


def _rot90(site: CallSite, given: _Given) -> _Found:
    turns, dims = given.get("k", 1), tuple(given.get("dims", (0, 1)))
    if is_computed(turns) or is_computed(dims):
        return Mismatch("turns or dims that are computed")
    flipped = ((), dims[1:], dims, dims[:1])[turns % 4]
    made = given["input"]
    if flipped:
        made = site.rewriter.call(vocab.FLIP, made, dims=flipped, origins=(site.node,))
    if turns % 2 == 0:
        return site.through(made) if flipped else site.becomes(vocab.CLONE, {"input": made})
    return site.becomes(vocab.TRANSPOSE, {"input": made, "dim0": dims[0], "dim1": dims[1]})


def _factors(op: OpDef, *fields: str) -> _Reader:
    def read(site: CallSite, given: _Given) -> _Found:
        return _of_several(site, op, given, fields)

    return read


def _data_sized(site: CallSite, given: _Given) -> _Found:
    return Mismatch("how much it yields depends on the data")


_CLAMPS = {
    "input min max": (torch.clamp, torch.clip, "clamp", "clip"),
    "input min": (torch.clamp_min, "clamp_min"),
    "input max": (torch.clamp_max, "clamp_max"),
}
_SPREAD = "input dim unbiased keepdim correction"
_READERS: dict[Any, tuple[str, _Reader]] = {
    **dict.fromkeys(
        (torch.max, "max"), ("input other keepdim dim", _extreme(vocab.MAXIMUM, vocab.AMAX))
    ),
    **dict.fromkeys(
        (torch.min, "min"), ("input other keepdim dim", _extreme(vocab.MINIMUM, vocab.AMIN))
    ),
    **{spelling: (names, _clamp) for names, each in _CLAMPS.items() for spelling in each},
    **dict.fromkeys((torch.var, "var"), (_SPREAD, _spread(vocab.VAR))),
    **dict.fromkeys((torch.std, "std"), (_SPREAD, _spread(vocab.STD))),
    **dict.fromkeys((torch.norm, "norm"), ("input p dim keepdim dtype", _norm)),
    torch.linalg.norm: ("input ord dim keepdim dtype", _linalg_norm),
    **dict.fromkeys(
        (torch.sort, "sort"),
        ("input dim descending stable", _in_order(vocab.SORT_VALUES, vocab.SORT)),
    ),
    **dict.fromkeys(
        (torch.topk, "topk"),
        ("input k dim largest sorted", _in_order(vocab.TOPK_VALUES, vocab.TOPK)),
    ),
    torch.linalg.qr: ("input mode", _factors(vocab.QR, "Q", "R")),
    torch.linalg.svd: ("input full_matrices driver", _factors(vocab.SVD, "U", "S", "Vh")),
    **dict.fromkeys(
        (torch.unique, "unique", torch.unique_consecutive, "unique_consecutive"),
        ("input sorted return_inverse return_counts dim", _data_sized),
    ),
    **dict.fromkeys(
        (torch.masked_select, "masked_select", torch.nonzero, "nonzero", torch.argwhere),
        ("input mask as_tuple", _data_sized),
    ),
    F.softmin: ("input dim _stacklevel dtype", _softmin),
    torch.rsub: ("input other alpha", _reversed),
    **dict.fromkeys((torch.addcmul, "addcmul"), ("input tensor1 tensor2 value", _added_product)),
    **dict.fromkeys((F.rrelu, torch.rrelu), ("input lower upper training inplace", _rrelu)),
    **dict.fromkeys((torch.rot90, "rot90"), ("input k dims", _rot90)),
    **dict.fromkeys((torch.tensor_split, "tensor_split"), ("input sections dim indices", _parts)),
}
"""Names of arguments in order, and what reads them."""
