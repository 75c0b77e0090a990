"""Functions that torch has beside those of the vocabulary, by what they mean.

clamp(x, a, b)                 ->  minimum(maximum(x, a), b)  of tensors that are not infinite
softmin(x)                     ->  softmax(neg(x))
rsub(x, y)                     ->  sub(y, x)
addcmul(x, y, z, value=v)      ->  add(x, mul(mul(y, z), v)), and addcdiv likewise
deg2rad(x), rad2deg(x)         ->  mul(x, pi / 180), mul(x, 180 / pi)
rrelu(x, a, b)                 ->  leaky_relu(x, (a + b) / 2)  in inference
rot90(x, k, (a, b))            ->  transpose(flip(x, b), a, b) and the like
tensor_split(x, indices=i)     ->  tensor_split(x, sections=i)
diag(x)                        ->  diagonal(x) of a matrix, diag_embed(x) of a vector
diff(x)                        ->  sub(x[..., 1:], x[..., :-1])
cross(x, y)                    ->  sub(mul(roll(x, -1), roll(y, 1)), mul(roll(x, 1), roll(y, -1)))

What reduces is in :mod:`qfx_passes.canonical.reductions`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qfx import vocab
from qfx.graph import meta
from qfx.graph.effects import changing
from qfx.graph.lookup import attribute_of
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import OpDef
from qfx_passes.canonical.argument_values import is_computed, rank_of
from qfx_passes.canonical.call_site import CallSite
from qfx_passes.canonical.functional_calls import Spelling
from qfx_passes.canonical.readings import NamedArguments, Reader, Reading, factors, is_tensor, read


def reword(site: CallSite, call: Spelling) -> Reading:
    """The operations that the call comes to; None if others know it."""
    return _module(site) if call.kind == "call_module" else read(site, call, _READERS)


def _module(site: CallSite) -> Reading:
    module = site.module
    if isinstance(module, nn.RReLU) and site.kind is nn.RReLU and not module.training:
        return _slope(site, site.operand, module.lower, module.upper)
    if isinstance(module, nn.Softmin) and site.kind is nn.Softmin:
        return _softmin(site, {"input": site.operand, "dim": module.dim})
    return None


def _clamp(site: CallSite, given: NamedArguments) -> Reading:
    bounds = [(vocab.MAXIMUM, given.get("min")), (vocab.MINIMUM, given.get("max"))]
    given_bounds = [(op, bound) for op, bound in bounds if bound is not None]
    if not given_bounds or not all(is_tensor(bound) for _, bound in given_bounds):
        return None
    result = given["input"]
    for op, bound in given_bounds:
        if not _is_no_bound(op, bound, site.node, given["input"]):
            result = site.rewriter.call(op, result, bound, origins=(site.node,))
    return site.through(result)


def _is_no_bound(op: OpDef, bound: fx.Node, clamp: fx.Node, clamped: fx.Node) -> bool:
    """Whether ``bound`` is a buffer of infinities that no value exceeds, and clamps nothing.

    Models are made with such, and get finite ones with their weights. No range can hold them.
    """
    if bound.op != "get_attr" or meta.tensor_info(clamp) != meta.tensor_info(clamped):
        return False
    value = attribute_of(bound.graph.owning_module, str(bound.target))
    least = -math.inf if op is vocab.MAXIMUM else math.inf
    if not isinstance(value, Tensor) or value.is_meta or not bool((value == least).all()):
        return False
    return bound not in changing(bound.graph)


def _softmin(site: CallSite, given: NamedArguments) -> Reading:
    dim, rank = given.get("dim"), rank_of(given["input"])
    if given.get("dtype") is not None or rank is None:
        return Mismatch("another dtype, or a tensor of unknown rank")
    if dim is None:
        dim = 0 if rank in (0, 1, 3) else 1  # as torch chooses
    negative = site.rewriter.call(vocab.NEG, given["input"], origins=(site.node,))
    return site.becomes(vocab.SOFTMAX, {"input": negative, "dim": dim})


def _reversed(site: CallSite, given: NamedArguments) -> Reading:
    if given.pop("alpha", 1) != 1:
        return Mismatch("alpha scales what is subtracted")
    return site.becomes(vocab.SUB, {"input": given["other"], "other": given["input"]})


def _added(op: OpDef) -> Reader:
    """A sum with what ``op`` makes of two."""

    def added(site: CallSite, given: NamedArguments) -> Reading:
        value = given.get("value", 1)
        rewriter, origins = site.rewriter, (site.node,)
        made = rewriter.call(op, given["tensor1"], given["tensor2"], origins=origins)
        if value != 1:
            made = rewriter.call(vocab.MUL, made, value, origins=origins)
        return site.becomes(vocab.ADD, {"input": given["input"], "other": made})

    return added


def _rrelu(site: CallSite, given: NamedArguments) -> Reading:
    if given.get("training", False) is not False:
        return None
    return _slope(site, given["input"], given.get("lower", 1 / 8), given.get("upper", 1 / 3))


def _slope(site: CallSite, input: fx.Node, lower: float, upper: float) -> Reading:
    slope = (lower + upper) / 2
    return site.becomes(vocab.LEAKY_RELU, {"input": input, "negative_slope": slope})


def _parts(site: CallSite, given: NamedArguments) -> Reading:
    indices = given.pop("indices", None)
    if indices is None:
        return None
    given["sections"] = tuple(indices) if isinstance(indices, list) else indices
    return site.becomes(vocab.TENSOR_SPLIT, given)


def _rot90(site: CallSite, given: NamedArguments) -> Reading:
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


def _data_sized(site: CallSite, given: NamedArguments) -> Reading:
    return Mismatch("how much it yields depends on the data")


def _scaled(factor: float) -> Reader:
    def scaled(site: CallSite, given: NamedArguments) -> Reading:
        return site.becomes(vocab.MUL, {"input": given["input"], "other": factor})

    return scaled


def _sign(site: CallSite, given: NamedArguments) -> Reading:
    if not meta.is_float_tensor(given["input"]):
        return Mismatch("the sign of what may be complex")
    return site.becomes(vocab.SIGN, {"input": given["input"]})


def _diagonal(site: CallSite, given: NamedArguments) -> Reading:
    """The diagonal of a matrix, or the matrix that has a vector as its diagonal."""
    offset = {"offset": given["diagonal"]} if "diagonal" in given else {}
    if rank_of(given["input"]) == 2:
        return site.becomes(vocab.DIAGONAL, {"input": given["input"], **offset})
    return site.becomes(vocab.DIAG_EMBED, {"input": given["input"], **offset})


def _differences(site: CallSite, given: NamedArguments) -> Reading:
    rank, dim, times = rank_of(given["input"]), given.get("dim", -1), given.get("n", 1)
    if rank is None or type(dim) is not int or type(times) is not int or times < 1:
        return Mismatch("differences along a dim or so many times as is computed")
    info = meta.tensor_info(given["input"])
    if info is None or info.dtype == torch.bool:
        return Mismatch("differences of truths")
    before = (slice(None),) * (dim % rank)
    rewriter, origins, made = site.rewriter, (site.node,), given["input"]
    for _ in range(times):
        later = rewriter.call(vocab.GETITEM, made, (*before, slice(1, None)), origins=origins)
        former = rewriter.call(vocab.GETITEM, made, (*before, slice(None, -1)), origins=origins)
        made = rewriter.call(vocab.SUB, later, former, origins=origins)
    return site.through(made)


def _cross_of_last(site: CallSite, given: NamedArguments) -> Reading:
    return _cross(site, {"dim": -1, **given})


def _cross(site: CallSite, given: NamedArguments) -> Reading:
    dim, infos = given.get("dim"), [meta.tensor_info(given[n]) for n in ("input", "other")]
    shapes = {info.shape for info in infos if info is not None}
    if type(dim) is not int or len(shapes) != 1:
        return Mismatch("a cross product of other shapes, or along a dim that is not named")
    rewriter, origins = site.rewriter, (site.node,)

    def turned(value: fx.Node, by: int) -> fx.Node:
        return rewriter.call(vocab.ROLL, value, shifts=by, dims=dim, origins=origins)

    a, b = given["input"], given["other"]
    products = [
        rewriter.call(vocab.MUL, turned(a, x), turned(b, y), origins=origins)
        for x, y in ((-1, 1), (1, -1))
    ]
    return site.becomes(vocab.SUB, {"input": products[0], "other": products[1]})


_CLAMPS = {
    "input min max": (torch.clamp, torch.clip, "clamp", "clip"),
    "input min": (torch.clamp_min, "clamp_min"),
    "input max": (torch.clamp_max, "clamp_max"),
}
_DIFFERENCE = "input n dim"
_READERS: dict[Any, tuple[str, Reader]] = {
    **{spelling: (names, _clamp) for names, each in _CLAMPS.items() for spelling in each},
    torch.linalg.qr: ("input mode", factors(vocab.QR, "Q", "R")),
    torch.linalg.svd: ("input full_matrices driver", factors(vocab.SVD, "U", "S", "Vh")),
    torch.linalg.eigh: ("input UPLO", factors(vocab.EIGH, "eigenvalues", "eigenvectors")),
    **dict.fromkeys(
        (torch.slogdet, torch.linalg.slogdet, "slogdet"),
        ("input", factors(vocab.SLOGDET, "sign", "logabsdet")),
    ),
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
    **dict.fromkeys((torch.addcmul, "addcmul"), ("input tensor1 tensor2 value", _added(vocab.MUL))),
    **dict.fromkeys((torch.addcdiv, "addcdiv"), ("input tensor1 tensor2 value", _added(vocab.DIV))),
    **dict.fromkeys((torch.deg2rad, "deg2rad"), ("input", _scaled(math.pi / 180))),
    **dict.fromkeys((torch.rad2deg, "rad2deg"), ("input", _scaled(180 / math.pi))),
    **dict.fromkeys((torch.sgn, "sgn"), ("input", _sign)),
    **dict.fromkeys((torch.diag, "diag"), ("input diagonal", _diagonal)),
    **dict.fromkeys((torch.diff, "diff"), (_DIFFERENCE, _differences)),
    **dict.fromkeys((torch.cross, "cross"), ("input other dim", _cross)),
    torch.linalg.cross: ("input other dim", _cross_of_last),
    **dict.fromkeys((F.rrelu, torch.rrelu), ("input lower upper training inplace", _rrelu)),
    **dict.fromkeys((torch.rot90, "rot90"), ("input k dims", _rot90)),
    **dict.fromkeys((torch.tensor_split, "tensor_split"), ("input sections dim indices", _parts)),
}
"""Names of arguments in order, and what reads them."""
