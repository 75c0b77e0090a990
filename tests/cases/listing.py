"""What models call between layers, and what becomes of it: one row a spelling.

Each function gets the result of a layer, (2, 8, 8), and a module that holds parameters and buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Outcome(Enum):
    """What the report of x86 says of every operation of a row, static."""

    MOVED = ""  # in integers, as the layers around it
    FLOAT = "no-kernel"
    UNKNOWN = "unknown-op"
    FORM = "unknown-form"


class Row(NamedTuple):
    """A spelling, the canonical operations that it comes to, and what becomes of them."""

    ops: str
    call: Callable[[Any, Tensor], Tensor]
    outcome: Outcome


def module(kind: Callable[[], nn.Module]) -> Callable[[Any, Tensor], Tensor]:
    """A row's call of a module, which the model holds."""
    called: Callable[[Any, Tensor], Tensor] = lambda m, x: m.module(x)  # noqa: E731
    called.kind = kind  # type: ignore[attr-defined]
    return called


class Apart(nn.Module):
    """A module of two tensors, called with one and what lies beside it."""

    def __init__(self, distance: nn.Module) -> None:
        super().__init__()
        self.distance = distance
        self.register_buffer("other", torch.full((8, 8), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        apart: Tensor = self.distance(x, self.other)
        return apart


def _rows(outcome: Outcome, *rows: tuple[str, Callable[[Any, Tensor], Tensor]]) -> list[Row]:
    return [Row(ops, call, outcome) for ops, call in rows]


def _llama_norm(m: Any, x: Tensor) -> Tensor:
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + m.eps)
    return m.scale * wide.to(x.dtype)


def _rotated(m: Any, x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def _first_of_max(m: Any, x: Tensor) -> Tensor:
    values, _ = x.max(-1)
    return values


ELEMENTWISE = _rows(
    Outcome.FLOAT,
    ("exp", lambda m, x: x.exp()),
    ("exp", lambda m, x: torch.exp_(x)),
    ("expm1", lambda m, x: torch.expm1(x)),
    ("abs add log", lambda m, x: torch.log(x.abs() + 1)),
    ("exp2", lambda m, x: torch.special.exp2(x)),
    ("abs add log2", lambda m, x: (x.abs() + 1).log2_()),
    ("abs add log10", lambda m, x: torch.log10(x.abs() + 1)),
    ("lerp", lambda m, x: torch.lerp(x, m.table, 0.3)),
    ("lerp", lambda m, x: m.table.lerp(x, m.scale)),
    ("abs log1p", lambda m, x: torch.log1p(abs(x))),
    ("abs add sqrt", lambda m, x: (x.absolute() + 1).sqrt_()),
    ("abs add rsqrt", lambda m, x: torch.rsqrt(x.abs_() + 1)),
    ("abs add reciprocal", lambda m, x: (torch.absolute(x) + 1).reciprocal()),
    ("sin", lambda m, x: x.sin()),
    ("cos", lambda m, x: torch.cos(x)),
    ("erf", lambda m, x: torch.special.erf(x)),
    ("sign mul", lambda m, x: torch.sign(x) * x),
    ("mul floor", lambda m, x: (x * 50).floor()),
    ("mul ceil", lambda m, x: torch.ceil(x * 50)),
    ("mul round", lambda m, x: torch.round(x * 50)),
    ("round", lambda m, x: torch.round(x, decimals=2)),
    ("neg", lambda m, x: -x),
    ("neg", lambda m, x: torch.negative(x)),
    ("pow", lambda m, x: x**2),
    ("pow", lambda m, x: 2**x),
    ("pow", lambda m, x: x.square_()),
    ("abs add pow", lambda m, x: torch.pow(x.abs() + 1, m.scale)),
    ("where", lambda m, x: torch.where(m.mask, x, 0.5)),
    ("where", lambda m, x: x.where(m.mask, m.scale)),
    ("masked_fill", lambda m, x: x.masked_fill_(m.mask, 0.5)),
    ("masked_fill softmax", lambda m, x: x.masked_fill(m.mask, -1e9).softmax(-1)),
    ("tril", lambda m, x: x.tril()),
    ("triu", lambda m, x: torch.triu(x, diagonal=1)),
    ("cumsum", lambda m, x: x.cumsum(1)),
    ("sub", lambda m, x: torch.rsub(x, 1.5)),
    ("div", lambda m, x: x.true_divide(3)),
    ("mul tan", lambda m, x: (x * 0.3).tan()),
    ("asin", lambda m, x: torch.arcsin(x.tanh())),
    ("acos", lambda m, x: x.tanh().acos()),
    ("atan", lambda m, x: torch.atan_(x)),
    ("sinh", lambda m, x: torch.sinh(x)),
    ("cosh", lambda m, x: x.cosh()),
    ("asinh", lambda m, x: x.arcsinh()),
    ("abs add acosh", lambda m, x: torch.acosh(x.abs() + 1.5)),
    ("mul atanh", lambda m, x: (x.tanh() * 0.5).atanh()),
    ("erfc", lambda m, x: torch.special.erfc(x)),
    ("mul erfinv", lambda m, x: (x.tanh() * 0.5).erfinv()),
    ("sinc", lambda m, x: torch.sinc(x)),
    ("abs add lgamma", lambda m, x: torch.special.gammaln(x.abs() + 1)),
    ("abs add digamma", lambda m, x: torch.digamma(x.abs() + 1)),
    ("i0", lambda m, x: torch.special.i0(x)),
    ("i0", lambda m, x: x.i0_()),
    ("sigmoid logit", lambda m, x: torch.logit(x.sigmoid(), 1e-3)),
    ("nan_to_num", lambda m, x: torch.nan_to_num(x, posinf=3.0)),
    ("nan_to_num", lambda m, x: x.nan_to_num_(0.5)),
    ("mul trunc", lambda m, x: torch.fix(x * 50)),
    ("mul frac", lambda m, x: (x * 5).frac()),
    ("remainder", lambda m, x: x % 0.3),
    ("fmod", lambda m, x: torch.fmod(x, m.scale)),
    ("atan2", lambda m, x: torch.atan2(x, m.scale)),
    ("hypot", lambda m, x: x.hypot(m.table)),
    ("abs copysign", lambda m, x: torch.copysign(x.abs(), m.table)),
    ("logaddexp", lambda m, x: torch.logaddexp(x, m.table)),
    ("logaddexp2", lambda m, x: x.logaddexp2(m.table)),
    ("abs add xlogy", lambda m, x: torch.special.xlogy(m.table, x.abs() + 1)),
    ("sign", lambda m, x: x.sgn()),
    ("mul", lambda m, x: torch.deg2rad(x)),
    ("div add", lambda m, x: m.table.addcdiv(x, m.scale)),
)
ACTIVATIONS = _rows(
    Outcome.FLOAT,
    ("selu", module(nn.SELU)),
    ("selu", lambda m, x: F.selu(x, inplace=True)),
    ("celu", module(lambda: nn.CELU(0.7))),
    ("celu", lambda m, x: torch.celu_(x, 0.5)),
    ("softplus", module(lambda: nn.Softplus(2.0, 5.0))),
    ("softplus", lambda m, x: F.softplus(x)),
    ("softsign", module(nn.Softsign)),
    ("logsigmoid", module(nn.LogSigmoid)),
    ("logsigmoid", lambda m, x: F.logsigmoid(x)),
    ("hardshrink", module(lambda: nn.Hardshrink(0.1))),
    ("softshrink", module(lambda: nn.Softshrink(0.1))),
    ("tanhshrink", module(nn.Tanhshrink)),
    ("threshold", module(lambda: nn.Threshold(0.1, 0.3))),
    ("threshold", lambda m, x: F.threshold_(x, 0.1, 0.3)),
    ("glu", module(nn.GLU)),
    ("glu", lambda m, x: F.glu(x, 1)),
    ("neg softmax", module(lambda: nn.Softmin(-1))),
    ("neg softmax", lambda m, x: F.softmin(x, dim=1)),
)
NORMS = _rows(
    Outcome.FLOAT,
    ("rms_norm", module(lambda: nn.RMSNorm(8))),
    ("rms_norm", module(lambda: nn.RMSNorm((8, 8), elementwise_affine=False))),
    ("rms_norm", lambda m, x: F.rms_norm(x, (8,), m.scale, 1e-6)),
    ("rms_norm", lambda m, x: torch.rms_norm(x, [8], weight=m.scale)),
    ("pow mean add rsqrt mul mul", _llama_norm),
    ("local_response_norm", module(lambda: nn.LocalResponseNorm(3))),
    ("local_response_norm", lambda m, x: F.local_response_norm(x, 5, 1e-3)),
    ("normalize", lambda m, x: F.normalize(x, dim=-1)),
    ("normalize", lambda m, x: F.normalize(x, p=1.0)),
    ("vector_norm div", lambda m, x: x / x.norm(dim=-1, keepdim=True)),
    ("vector_norm mul", lambda m, x: torch.norm(x, p=2, dim=(1, 2), keepdim=True) * x),
    ("vector_norm mul", lambda m, x: torch.norm(x) * x),
    ("vector_norm", lambda m, x: torch.linalg.norm(x, dim=-1)),
    ("vector_norm", lambda m, x: torch.linalg.vector_norm(x, 1, -1)),
    ("var", lambda m, x: x.var(-1)),
    ("var mul", lambda m, x: torch.var(x, dim=(-1, -2), keepdim=True, unbiased=False) * x),
    ("var mul", lambda m, x: x.var(False) * x),
    ("std mul", lambda m, x: torch.std(x, -1, keepdim=True, correction=0) * x),
)


def _spread(m: Any, x: Tensor) -> Tensor:
    low, high = torch.aminmax(x, dim=1, keepdim=True)
    return high - low


def _mean_of_var(m: Any, x: Tensor) -> Tensor:
    var, mean = torch.var_mean(x, 1, correction=0)
    return var + mean


def _grid(m: Any, x: Tensor) -> Tensor:
    return torch.stack(torch.meshgrid(x[0, 0], m.scale, indexing="xy")[::-1])


def _at(m: Any, x: Tensor) -> Tensor:
    grid = F.affine_grid(x[:, :2, :3], (2, 1, 4, 4), align_corners=False)
    return F.grid_sample(x[:, None], grid, align_corners=False)


def _unpooled(m: Any, x: Tensor) -> Tensor:
    pooled, places = F.max_pool1d(m.table, 2, return_indices=True)
    return F.max_unpool1d(pooled + x[..., :4], places, 2)


def _nearest(m: Any, x: Tensor) -> Tensor:
    distances, _ = torch.cdist(x, m.table).sort(-1)
    return distances


ORDERS = _rows(
    Outcome.FLOAT,
    ("cumprod", lambda m, x: torch.cumprod(x, 1)),
    ("cdist sort_values", _nearest),
    ("cdist", lambda m, x: torch.cdist(x, m.table, p=1.0)),
    ("topk getitem getitem mul", lambda m, x: torch.mul(*x.topk(3, -1))),
    ("sort getitem take_along_dim", lambda m, x: m.table.take_along_dim(x.sort(1).indices, 1)),
    ("abs argsort gather", lambda m, x: m.table.gather(-1, x.abs().argsort(-1))),
    ("mul bucketize mul", lambda m, x: torch.bucketize(x * 0.1, m.low.sort()[0]) * m.table),
    ("searchsorted mul", lambda m, x: torch.searchsorted(m.low.sort()[0], x, right=True) * x),
    ("getitem scatter", lambda m, x: m.table.scatter(-1, m.grid[..., :1], x[..., :1])),
    ("scatter", lambda m, x: x.scatter_(-1, m.grid[..., :1], 2.0)),
    ("scatter_add", lambda m, x: torch.scatter_add(m.table, 1, m.grid, x)),
    ("getitem index_add", lambda m, x: m.table.clone().index_add_(1, m.places, x[:, :3], alpha=2)),
    ("getitem getitem outer reshape", lambda m, x: torch.outer(x[0, 0], x[1, 1]).reshape(2, -1)),
    ("max_along getitem getitem mul", lambda m, x: torch.mul(*x.max(1))),
    ("min_along getitem mul", lambda m, x: x.min(-1, keepdim=True).indices * m.table),
    ("amin amax sub", _spread),
    ("var mean add", _mean_of_var),
    ("median", lambda m, x: x.median(1)[0]),
    ("median mul", lambda m, x: torch.median(x) * x),
    ("quantile", lambda m, x: torch.quantile(x, 0.3, dim=1)),
    ("prod", lambda m, x: x.prod(1, keepdim=True)),
    ("logsumexp", lambda m, x: torch.logsumexp(x, [1, 2], True)),
    ("sub vector_norm mul", lambda m, x: torch.dist(x, m.table) * x),
    ("sub add vector_norm", lambda m, x: F.pairwise_distance(x, m.table, keepdim=True)),
    ("sub add vector_norm", module(lambda: Apart(nn.PairwiseDistance(1.0)))),
    ("getitem diagonal sum mul", lambda m, x: x[0].trace() * x),
    (
        "getitem scatter_reduce",
        lambda m, x: m.table.scatter_reduce(1, m.grid[:, :3], x[:, :3], "amax"),
    ),
    ("masked_scatter", lambda m, x: torch.masked_scatter(m.table, m.mask, x)),
    ("getitem index_copy", lambda m, x: m.table.index_copy(1, m.places, x[:, :3])),
    ("index_fill", lambda m, x: x.index_fill_(-1, m.places, 0.5)),
    ("getitem meshgrid getitem getitem stack", _grid),
    ("getitem diag_embed mul", lambda m, x: torch.diag(x[0, 0]) * m.table),
    ("getitem diagonal getitem mul", lambda m, x: torch.diag(x[0], 1)[:, None] * m.scale),
    ("getitem affine_grid getitem grid_sample", _at),
    ("getitem add max_unpool1d", _unpooled),
    ("histc getitem mul", lambda m, x: torch.histc(x, 8)[None] * m.table),
    ("kthvalue getitem", lambda m, x: x.kthvalue(3, 1)[0]),
    ("kthvalue getitem getitem mul", lambda m, x: torch.mul(*torch.kthvalue(x, 2))),
    ("round mode getitem", lambda m, x: x.round().mode(1, keepdim=True).values),
    ("logcumsumexp", lambda m, x: torch.logcumsumexp(x, 1)),
    ("logcumsumexp", lambda m, x: x.logcumsumexp(dim=-1)),
    ("lp_pool1d", module(lambda: nn.LPPool1d(2, 3, 2))),
    ("lp_pool1d", lambda m, x: F.lp_pool1d(x, 2, 4)),
    ("lp_pool2d", lambda m, x: F.lp_pool2d(x, float("inf"), (2, 3))),
    ("getitem lp_pool3d", lambda m, x: F.lp_pool3d(x[None], 2.0, 2, ceil_mode=True)),
)
MATRICES = _rows(
    Outcome.FLOAT,
    ("matrix_norm mul", lambda m, x: torch.linalg.norm(x, "nuc", (1, 2), True) * x),
    ("matrix_norm mul", lambda m, x: torch.linalg.matrix_norm(x, keepdim=True) * x),
    ("add det getitem mul", lambda m, x: torch.det(x + m.identity)[:, None, None] * x),
    ("add inv", lambda m, x: torch.linalg.inv(x + m.identity)),
    ("add solve", lambda m, x: torch.linalg.solve(x + m.identity, m.table)),
    ("svd getitem", lambda m, x: torch.linalg.svd(x).S),
    ("add pinv", lambda m, x: torch.linalg.pinv(x + m.identity)),
    ("transpose matmul add cholesky", lambda m, x: torch.linalg.cholesky(x @ x.mT + m.identity)),
    ("transpose matmul add eigh getitem", lambda m, x: torch.linalg.eigh(x @ x.mT + m.identity)[0]),
    (
        "add slogdet getitem sum mul",
        lambda m, x: (x + m.identity).slogdet()[1].sum() * x,
    ),
    ("kron", lambda m, x: torch.kron(m.table[0, :2], x)),
    ("qr getitem abs", lambda m, x: torch.linalg.qr(x)[1].abs()),
)
LOSSES = _rows(
    Outcome.FLOAT,
    ("cross_entropy mul", lambda m, x: F.cross_entropy(x, m.grid[:, 0]) * x),
    ("log_softmax nll_loss mul", lambda m, x: F.nll_loss(x.log_softmax(1), m.grid[:, 0]) * x),
    ("mse_loss mul", lambda m, x: F.mse_loss(x, m.table) * x),
    ("smooth_l1_loss mul", lambda m, x: F.smooth_l1_loss(x, m.table, beta=0.5) * x),
    ("l1_loss mul", lambda m, x: F.l1_loss(x, m.table, reduction="sum") * x),
    ("huber_loss mul", lambda m, x: F.huber_loss(x, target=m.table) * x),
    (
        "binary_cross_entropy_with_logits mul",
        lambda m, x: F.binary_cross_entropy_with_logits(x, m.target, pos_weight=m.scale) * x,
    ),
    (
        "sigmoid binary_cross_entropy mul",
        lambda m, x: F.binary_cross_entropy(x.sigmoid(), m.target) * x,
    ),
    (
        "log_softmax kl_div mul",
        lambda m, x: F.kl_div(x.log_softmax(-1), m.target, reduction="batchmean") * x,
    ),
    ("cosine_similarity getitem mul", lambda m, x: F.cosine_similarity(x, m.table, 1)[:, None] * x),
    ("margin_ranking_loss mul", lambda m, x: F.margin_ranking_loss(x, m.table, m.table.sign()) * x),
    (
        "getitem cosine_embedding_loss mul",
        lambda m, x: F.cosine_embedding_loss(x[0], m.table[0], m.low.sign(), margin=0.1) * x,
    ),
    ("hinge_embedding_loss mul", lambda m, x: F.hinge_embedding_loss(x, m.identity.sign()) * x),
    ("soft_margin_loss mul", lambda m, x: F.soft_margin_loss(x, m.table.sign()) * x),
    ("getitem multi_margin_loss mul", lambda m, x: F.multi_margin_loss(x[0], m.grid[0, 0]) * x),
    (
        "getitem multilabel_margin_loss mul",
        lambda m, x: F.multilabel_margin_loss(x[0], m.grid[0]) * x,
    ),
    (
        "getitem multilabel_soft_margin_loss mul",
        lambda m, x: F.multilabel_soft_margin_loss(x[0], m.target[0]) * x,
    ),
    (
        "triplet_margin_loss mul",
        lambda m, x: F.triplet_margin_loss(x, m.table, m.target, swap=True) * x,
    ),
    ("poisson_nll_loss mul", lambda m, x: F.poisson_nll_loss(x, m.target) * x),
    ("gaussian_nll_loss mul", lambda m, x: F.gaussian_nll_loss(x, m.table, m.target) * x),
    (
        "log_softmax ctc_loss mul",
        lambda m, x: F.ctc_loss(x.log_softmax(-1), m.labels, (2,) * 8, (1,) * 8) * x,
    ),
)
PRODUCTS = _rows(
    Outcome.FLOAT,
    ("matmul", lambda m, x: torch.inner(x, m.table[0])),
    (
        "getitem getitem unsqueeze unsqueeze matmul squeeze squeeze mul",
        lambda m, x: torch.dot(x[0, 0], x[1, 1]) * x,
    ),
    ("unsqueeze matmul squeeze squeeze", lambda m, x: torch.linalg.vecdot(x, m.table)),
    ("matmul sum add", lambda m, x: torch.addbmm(m.table[0], x, m.table)),
    ("getitem getitem matmul add mul", lambda m, x: torch.addmv(m.scale, x[0], x[1, 1]) * x),
    ("getitem getitem outer mul add", lambda m, x: m.table[0].addr(x[0, 0], x[1, 1], alpha=0.5)),
    ("bilinear", lambda m, x: F.bilinear(x, m.table, m.cube, m.scale[:3])),
    ("matmul", lambda m, x: torch.linalg.matmul(m.table, x)),
    ("matmul add", lambda m, x: torch.baddbmm(m.table, x, m.table)),
    ("matmul mul", lambda m, x: torch.baddbmm(m.table, x, m.table, beta=0, alpha=0.5)),
)
MOVES = _rows(
    Outcome.MOVED,
    ("index_select", lambda m, x: torch.index_select(x, 1, m.places)),
    ("index_select", lambda m, x: x.index_select(-1, m.places)),
    ("gather", lambda m, x: x.gather(dim=-1, index=m.grid)),
    ("getitem", lambda m, x: x[:, m.places]),
    ("take_along_dim", lambda m, x: torch.take_along_dim(x, m.grid, 1)),
    ("sort_values", lambda m, x: x.sort(-1)[0]),
    ("sort_values", lambda m, x: torch.sort(x, 1, descending=True).values),
    ("sort_values", lambda m, x: x.msort()),
    ("topk_values", lambda m, x: torch.topk(x, 3)[0]),
    ("topk_values", lambda m, x: x.topk(min(2, x.shape[0]), 1, largest=False).values),
    ("flip fmax", lambda m, x: torch.fmax(x, x.flip(1))),
    ("flip fmin", lambda m, x: x.fmin(x.flip(1))),
    ("diagonal", lambda m, x: torch.diagonal(x, 1, -2, -1)),
    ("flip transpose", lambda m, x: torch.rot90(x, 1, (1, 2))),
    ("flip transpose", lambda m, x: x.rot90(-1, [-2, -1])),
    ("flip", lambda m, x: x.rot90(2, (1, 2))),
    ("clone", lambda m, x: x.rot90(4, (1, 2))),
    ("tensor_split getitem", lambda m, x: torch.tensor_split(x, 3, 1)[1]),
    ("tensor_split getitem", lambda m, x: torch.tensor_split(x, indices=[1, 3], dim=1)[1]),
    ("tensor_split getitem", lambda m, x: x.hsplit((1, 5))[2]),
    ("split getitem", lambda m, x: torch.split_with_sizes(x, [3, 5], 1)[1]),
    ("windows", lambda m, x: x.unfold(1, 4, 2)),
    ("flip maximum", lambda m, x: torch.maximum(x, x.flip(1))),
    ("flip minimum", lambda m, x: x.min(x.flip(1))),
    ("chunk getitem getitem maximum", lambda m, x: torch.max(*x.chunk(2, 1))),
    ("maximum minimum", lambda m, x: torch.clamp(x, m.low, m.high)),
    ("maximum", lambda m, x: x.clamp_min(m.low)),
    ("amax", lambda m, x: x.amax(-1)),
    ("amax", lambda m, x: torch.max(x, 1)[0]),
    ("amax", lambda m, x: x.max(dim=1, keepdim=True).values),
    ("amax", _first_of_max),
    ("chunk getitem getitem cat", lambda m, x: torch.cat([part for part in x.chunk(2, 1)], -1)),
    ("amin", lambda m, x: torch.min(x, -1)[0]),
)
OUTSIDE = [
    *_rows(Outcome.UNKNOWN, ("", lambda m, x: torch.special.i1(x))),
    *_rows(Outcome.FORM, ("sum mul", lambda m, x: x.unique().sum() * x)),
]
