"""What puts values in order or at places, picks them by order, or finds where they belong."""

from __future__ import annotations

import torch

from qfx.semantics import ordering
from qfx.vocab.definition import Kind, define

# -- values, moved -------------------------------------------------------------------------------
SORT_VALUES = define(ordering.sort_values, Kind.SHAPE, (), (torch.msort,), ("msort",))
TOPK_VALUES = define(ordering.topk_values, Kind.SHAPE)
TAKE_ALONG_DIM = define(
    ordering.take_along_dim, Kind.SHAPE, (), (torch.take_along_dim,), ("take_along_dim",)
)

# -- and where they were -------------------------------------------------------------------------
SORT = define(ordering.sort, Kind.REDUCE)
TOPK = define(ordering.topk, Kind.REDUCE)
ARGSORT = define(ordering.argsort, Kind.REDUCE, (), (torch.argsort,), ("argsort",))

# -- where they belong ---------------------------------------------------------------------------
SEARCHSORTED = define(ordering.searchsorted, Kind.REDUCE, (), (torch.searchsorted,))
BUCKETIZE = define(ordering.bucketize, Kind.REDUCE, (), (torch.bucketize,))
HISTC = define(ordering.histc, Kind.REDUCE, (), (torch.histc,), ("histc",))

# -- what is put where ---------------------------------------------------------------------------
SCATTER = define(ordering.scatter, Kind.ARITHMETIC, (), (torch.scatter,), ("scatter",))
SCATTER_ADD = define(
    ordering.scatter_add, Kind.ARITHMETIC, (), (torch.scatter_add,), ("scatter_add",)
)
SCATTER_REDUCE = define(
    ordering.scatter_reduce, Kind.ARITHMETIC, (), (torch.scatter_reduce,), ("scatter_reduce",)
)
MASKED_SCATTER = define(
    ordering.masked_scatter, Kind.ARITHMETIC, (), (torch.masked_scatter,), ("masked_scatter",)
)
INDEX_COPY = define(ordering.index_copy, Kind.ARITHMETIC, (), (torch.index_copy,), ("index_copy",))
INDEX_FILL = define(ordering.index_fill, Kind.ARITHMETIC, (), (torch.index_fill,), ("index_fill",))
INDEX_ADD = define(ordering.index_add, Kind.ARITHMETIC, (), (torch.index_add,), ("index_add",))
