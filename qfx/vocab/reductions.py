"""Pools and reductions: many values become one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from qfx.semantics import pools
from qfx.vocab.definition import Kind, define

MAX_POOL1D = define(
    pools.max_pool1d,
    Kind.POOL,
    (nn.MaxPool1d,),
    (F.max_pool1d, torch.max_pool1d, F.max_pool1d_with_indices),
    name="max_pool1d",
    dims=1,
    picks=True,
)
MAX_POOL2D = define(
    pools.max_pool2d,
    Kind.POOL,
    (nn.MaxPool2d,),
    (F.max_pool2d, torch.max_pool2d, F.max_pool2d_with_indices),
    name="max_pool2d",
    dims=2,
    picks=True,
)
MAX_POOL3D = define(
    pools.max_pool3d,
    Kind.POOL,
    (nn.MaxPool3d,),
    (F.max_pool3d, torch.max_pool3d, F.max_pool3d_with_indices),
    name="max_pool3d",
    dims=3,
    picks=True,
)
MAX_UNPOOL1D = define(
    pools.max_unpool1d,
    Kind.ARITHMETIC,
    (nn.MaxUnpool1d,),
    (F.max_unpool1d,),
    name="max_unpool1d",
    dims=1,
)
MAX_UNPOOL2D = define(
    pools.max_unpool2d,
    Kind.ARITHMETIC,
    (nn.MaxUnpool2d,),
    (F.max_unpool2d,),
    name="max_unpool2d",
    dims=2,
)
MAX_UNPOOL3D = define(
    pools.max_unpool3d,
    Kind.ARITHMETIC,
    (nn.MaxUnpool3d,),
    (F.max_unpool3d,),
    name="max_unpool3d",
    dims=3,
)
AVG_POOL1D = define(
    pools.avg_pool1d, Kind.POOL, (nn.AvgPool1d,), (F.avg_pool1d,), name="avg_pool1d", dims=1
)
AVG_POOL2D = define(
    pools.avg_pool2d, Kind.POOL, (nn.AvgPool2d,), (F.avg_pool2d,), name="avg_pool2d", dims=2
)
AVG_POOL3D = define(
    pools.avg_pool3d, Kind.POOL, (nn.AvgPool3d,), (F.avg_pool3d,), name="avg_pool3d", dims=3
)
LP_POOL1D = define(
    pools.lp_pool1d, Kind.REDUCE, (nn.LPPool1d,), (F.lp_pool1d,), name="lp_pool1d", dims=1
)
LP_POOL2D = define(
    pools.lp_pool2d, Kind.REDUCE, (nn.LPPool2d,), (F.lp_pool2d,), name="lp_pool2d", dims=2
)
LP_POOL3D = define(
    pools.lp_pool3d, Kind.REDUCE, (nn.LPPool3d,), (F.lp_pool3d,), name="lp_pool3d", dims=3
)
ADAPTIVE_AVG_POOL1D = define(
    pools.adaptive_avg_pool1d,
    Kind.POOL,
    (nn.AdaptiveAvgPool1d,),
    (F.adaptive_avg_pool1d,),
    name="adaptive_avg_pool1d",
    dims=1,
)
ADAPTIVE_AVG_POOL2D = define(
    pools.adaptive_avg_pool2d,
    Kind.POOL,
    (nn.AdaptiveAvgPool2d,),
    (F.adaptive_avg_pool2d,),
    name="adaptive_avg_pool2d",
    dims=2,
)
ADAPTIVE_AVG_POOL3D = define(
    pools.adaptive_avg_pool3d,
    Kind.POOL,
    (nn.AdaptiveAvgPool3d,),
    (F.adaptive_avg_pool3d,),
    name="adaptive_avg_pool3d",
    dims=3,
)
ADAPTIVE_MAX_POOL1D = define(
    pools.adaptive_max_pool1d,
    Kind.POOL,
    (nn.AdaptiveMaxPool1d,),
    (F.adaptive_max_pool1d, F.adaptive_max_pool1d_with_indices),
    name="adaptive_max_pool1d",
    dims=1,
    picks=True,
)
ADAPTIVE_MAX_POOL2D = define(
    pools.adaptive_max_pool2d,
    Kind.POOL,
    (nn.AdaptiveMaxPool2d,),
    (F.adaptive_max_pool2d, F.adaptive_max_pool2d_with_indices),
    name="adaptive_max_pool2d",
    dims=2,
    picks=True,
)
ADAPTIVE_MAX_POOL3D = define(
    pools.adaptive_max_pool3d,
    Kind.POOL,
    (nn.AdaptiveMaxPool3d,),
    (F.adaptive_max_pool3d, F.adaptive_max_pool3d_with_indices),
    name="adaptive_max_pool3d",
    dims=3,
    picks=True,
)
INTERPOLATE = define(
    pools.interpolate,
    Kind.POOL,
    (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
    (F.interpolate, F.upsample, F.upsample_nearest, F.upsample_bilinear),
)
MEAN = define(pools.mean, Kind.REDUCE, (), (torch.mean,), ("mean",))
SUM = define(pools.sum, Kind.REDUCE, (), (torch.sum,), ("sum",))
PROD = define(pools.prod, Kind.REDUCE, (), (torch.prod,), ("prod",))
LOGSUMEXP = define(
    pools.logsumexp, Kind.REDUCE, (), (torch.logsumexp, torch.special.logsumexp), ("logsumexp",)
)
MAX_ALONG = define(pools.max_along, Kind.REDUCE)
MIN_ALONG = define(pools.min_along, Kind.REDUCE)
MEDIAN = define(pools.median, Kind.REDUCE)
KTHVALUE = define(pools.kthvalue, Kind.REDUCE)
MODE = define(pools.mode, Kind.REDUCE)
QUANTILE = define(pools.quantile, Kind.REDUCE, (), (torch.quantile,), ("quantile",))
AMAX = define(pools.amax, Kind.REDUCE, (), (torch.amax,), ("amax",), picks=True)
AMIN = define(pools.amin, Kind.REDUCE, (), (torch.amin,), ("amin",), picks=True)
VAR = define(pools.var, Kind.REDUCE)
STD = define(pools.std, Kind.REDUCE)
VECTOR_NORM = define(pools.vector_norm, Kind.REDUCE, (), (torch.linalg.vector_norm,))
CUMPROD = define(pools.cumprod, Kind.REDUCE, (), (torch.cumprod,), ("cumprod",))
CUMSUM = define(pools.cumsum, Kind.REDUCE, (), (torch.cumsum,), ("cumsum",))
LOGCUMSUMEXP = define(pools.logcumsumexp, Kind.REDUCE, (), (torch.logcumsumexp,), ("logcumsumexp",))
