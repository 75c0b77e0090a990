"""Functions of each number, which may have any range, and what takes one of two by number."""

from __future__ import annotations

import operator

import torch

from qfx.semantics import elementwise
from qfx.vocab.definition import Kind, define

# -- of one tensor -------------------------------------------------------------------------------
EXP = define(elementwise.exp, Kind.ARITHMETIC, (), (torch.exp,), ("exp",), elementwise=True)
EXPM1 = define(
    elementwise.expm1,
    Kind.ARITHMETIC,
    (),
    (torch.expm1, torch.special.expm1),
    ("expm1",),
    elementwise=True,
)
EXP2 = define(
    elementwise.exp2,
    Kind.ARITHMETIC,
    (),
    (torch.exp2, torch.special.exp2),
    ("exp2",),
    elementwise=True,
)
LOG2 = define(elementwise.log2, Kind.ARITHMETIC, (), (torch.log2,), ("log2",), elementwise=True)
LOG10 = define(elementwise.log10, Kind.ARITHMETIC, (), (torch.log10,), ("log10",), elementwise=True)
LOG = define(elementwise.log, Kind.ARITHMETIC, (), (torch.log,), ("log",), elementwise=True)
LOG1P = define(
    elementwise.log1p,
    Kind.ARITHMETIC,
    (),
    (torch.log1p, torch.special.log1p),
    ("log1p",),
    elementwise=True,
)
SQRT = define(elementwise.sqrt, Kind.ARITHMETIC, (), (torch.sqrt,), ("sqrt",), elementwise=True)
RSQRT = define(elementwise.rsqrt, Kind.ARITHMETIC, (), (torch.rsqrt,), ("rsqrt",), elementwise=True)
RECIPROCAL = define(
    elementwise.reciprocal,
    Kind.ARITHMETIC,
    (),
    (torch.reciprocal,),
    ("reciprocal",),
    elementwise=True,
)
SIN = define(elementwise.sin, Kind.ARITHMETIC, (), (torch.sin,), ("sin",), elementwise=True)
COS = define(elementwise.cos, Kind.ARITHMETIC, (), (torch.cos,), ("cos",), elementwise=True)
ERF = define(
    elementwise.erf,
    Kind.ARITHMETIC,
    (),
    (torch.erf, torch.special.erf),
    ("erf",),
    elementwise=True,
)
SIGN = define(elementwise.sign, Kind.ARITHMETIC, (), (torch.sign,), ("sign",), elementwise=True)
FLOOR = define(elementwise.floor, Kind.ARITHMETIC, (), (torch.floor,), ("floor",), elementwise=True)
CEIL = define(elementwise.ceil, Kind.ARITHMETIC, (), (torch.ceil,), ("ceil",), elementwise=True)
ROUND = define(
    elementwise.round,
    Kind.ARITHMETIC,
    (),
    (torch.round, torch.special.round),
    ("round",),
    elementwise=True,
)
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
LERP = define(elementwise.lerp, Kind.ARITHMETIC, (), (torch.lerp,), ("lerp",))
WHERE = define(elementwise.where, Kind.ARITHMETIC, (), (torch.where,), ("where",))
MASKED_FILL = define(
    elementwise.masked_fill,
    Kind.ARITHMETIC,
    (),
    (torch.masked_fill,),
    ("masked_fill",),
)
