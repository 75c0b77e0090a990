"""Linear algebra, which stays float."""

from __future__ import annotations

import torch

from qfx.semantics import matrices
from qfx.vocab.definition import Kind, define

MATRIX_NORM = define(matrices.matrix_norm, Kind.REDUCE, (), (torch.linalg.matrix_norm,))
CDIST = define(matrices.cdist, Kind.REDUCE, (), (torch.cdist,))
OUTER = define(
    matrices.outer,
    Kind.ARITHMETIC,
    (),
    (torch.outer, torch.ger),
    ("outer", "ger"),
)
KRON = define(matrices.kron, Kind.ARITHMETIC, (), (torch.kron,), ("kron",))
INV = define(
    matrices.inv,
    Kind.REDUCE,
    (),
    (torch.inverse, torch.linalg.inv),
    ("inverse",),
)
PINV = define(matrices.pinv, Kind.REDUCE, (), (torch.pinverse, torch.linalg.pinv), ("pinverse",))
CHOLESKY = define(
    matrices.cholesky, Kind.REDUCE, (), (torch.cholesky, torch.linalg.cholesky), ("cholesky",)
)
EIGH = define(matrices.eigh, Kind.REDUCE)
SLOGDET = define(matrices.slogdet, Kind.REDUCE)
DET = define(matrices.det, Kind.REDUCE, (), (torch.det, torch.linalg.det), ("det",))
SOLVE = define(matrices.solve, Kind.REDUCE, (), (torch.linalg.solve,))
QR = define(matrices.qr, Kind.REDUCE)
SVD = define(matrices.svd, Kind.REDUCE)
