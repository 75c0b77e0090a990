"""Functions of each number, which may have any range, and what takes one of two by number."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import Tensor

from qfx.semantics import elementwise
from qfx.vocab.definition import Kind, OpDef, define


def _each(function: Callable[..., Tensor], *spelled: Callable[..., object]) -> OpDef:
    """A function of each number of one tensor; methods are called like functions."""
    names = tuple(name for each in spelled if hasattr(Tensor, name := each.__name__))
    return define(function, Kind.ARITHMETIC, (), spelled, names, elementwise=True)


def _pair(function: Callable[..., Tensor], *spelled: Callable[..., object]) -> OpDef:
    """A function of each two numbers."""
    names = tuple(name for each in spelled if hasattr(Tensor, name := each.__name__))
    return define(function, Kind.ARITHMETIC, (), spelled, names)


# -- of one tensor -------------------------------------------------------------------------------
EXP = _each(elementwise.exp, torch.exp)
EXPM1 = _each(elementwise.expm1, torch.expm1, torch.special.expm1)
EXP2 = _each(elementwise.exp2, torch.exp2, torch.special.exp2)
LOG2 = _each(elementwise.log2, torch.log2)
LOG10 = _each(elementwise.log10, torch.log10)
LOG = _each(elementwise.log, torch.log)
LOG1P = _each(elementwise.log1p, torch.log1p, torch.special.log1p)
SQRT = _each(elementwise.sqrt, torch.sqrt)
RSQRT = _each(elementwise.rsqrt, torch.rsqrt)
RECIPROCAL = _each(elementwise.reciprocal, torch.reciprocal)
SIN = _each(elementwise.sin, torch.sin)
COS = _each(elementwise.cos, torch.cos)
TAN = _each(elementwise.tan, torch.tan)
ASIN = _each(elementwise.asin, torch.asin, torch.arcsin)
ACOS = _each(elementwise.acos, torch.acos, torch.arccos)
ATAN = _each(elementwise.atan, torch.atan, torch.arctan)
SINH = _each(elementwise.sinh, torch.sinh)
COSH = _each(elementwise.cosh, torch.cosh)
ASINH = _each(elementwise.asinh, torch.asinh, torch.arcsinh)
ACOSH = _each(elementwise.acosh, torch.acosh, torch.arccosh)
ATANH = _each(elementwise.atanh, torch.atanh, torch.arctanh)
ERF = _each(elementwise.erf, torch.erf, torch.special.erf)
ERFC = _each(elementwise.erfc, torch.erfc, torch.special.erfc)
ERFINV = _each(elementwise.erfinv, torch.erfinv, torch.special.erfinv)
SINC = _each(elementwise.sinc, torch.sinc, torch.special.sinc)
LGAMMA = _each(elementwise.lgamma, torch.lgamma, torch.special.gammaln)
DIGAMMA = _each(elementwise.digamma, torch.digamma, torch.special.digamma, torch.special.psi)
I0 = _each(elementwise.i0, torch.i0, torch.special.i0)
LOGIT = _each(elementwise.logit, torch.logit, torch.special.logit)
NAN_TO_NUM = _each(elementwise.nan_to_num, torch.nan_to_num)
SIGN = _each(elementwise.sign, torch.sign)
FLOOR = _each(elementwise.floor, torch.floor)
CEIL = _each(elementwise.ceil, torch.ceil)
TRUNC = _each(elementwise.trunc, torch.trunc, torch.fix)
FRAC = _each(elementwise.frac, torch.frac)
ROUND = _each(elementwise.round, torch.round, torch.special.round)
ABS = define(
    elementwise.abs,
    Kind.ACTIVATION,
    (),
    (torch.abs, torch.absolute, operator.abs),
    ("abs", "absolute"),
    elementwise=True,
)
NEG = define(
    elementwise.neg,
    Kind.ACTIVATION,
    (),
    (torch.neg, torch.negative, operator.neg),
    ("neg", "negative"),
    elementwise=True,
    affine=True,
)

# -- of two --------------------------------------------------------------------------------------
POW = define(
    elementwise.pow,
    Kind.ARITHMETIC,
    (),
    (torch.pow, torch.square, operator.pow, operator.ipow),
    ("pow", "square"),
)
MAXIMUM = define(
    elementwise.maximum,
    Kind.ARITHMETIC,
    (),
    (torch.maximum,),
    ("maximum",),
    commutative=True,
    picks=True,
)
MINIMUM = define(
    elementwise.minimum,
    Kind.ARITHMETIC,
    (),
    (torch.minimum,),
    ("minimum",),
    commutative=True,
    picks=True,
)
FMAX = define(
    elementwise.fmax, Kind.ARITHMETIC, (), (torch.fmax,), ("fmax",), commutative=True, picks=True
)
FMIN = define(
    elementwise.fmin, Kind.ARITHMETIC, (), (torch.fmin,), ("fmin",), commutative=True, picks=True
)
ATAN2 = _pair(elementwise.atan2, torch.atan2, torch.arctan2)
HYPOT = _pair(elementwise.hypot, torch.hypot)
COPYSIGN = _pair(elementwise.copysign, torch.copysign)
LOGADDEXP = _pair(elementwise.logaddexp, torch.logaddexp)
LOGADDEXP2 = _pair(elementwise.logaddexp2, torch.logaddexp2)
FMOD = _pair(elementwise.fmod, torch.fmod)
REMAINDER = _pair(elementwise.remainder, torch.remainder, operator.mod, operator.imod)
XLOGY = _pair(elementwise.xlogy, torch.xlogy, torch.special.xlogy)
LERP = define(elementwise.lerp, Kind.ARITHMETIC, (), (torch.lerp,), ("lerp",))
WHERE = define(elementwise.where, Kind.ARITHMETIC, (), (torch.where,), ("where",))
MASKED_FILL = define(
    elementwise.masked_fill,
    Kind.ARITHMETIC,
    (),
    (torch.masked_fill,),
    ("masked_fill",),
)
